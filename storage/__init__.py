"""Everything that touches the disk: artifacts, the call store, the catalog, readers and publishing."""
