"""What a run made of what, as a graph for its page."""

from synthmill.flows.pages.graph import Box, draw_graph, players, texts_in
from synthmill.flows.pages.templates import Manifests
from synthmill.schemas.artifacts import Manifest
from synthmill.storage.published.provenance import public_engine


def run_graph(manifests: Manifests, title: str) -> str:
    """An SVG of the artifacts by step; empty where nothing is made of anything."""
    if not any(manifest.sources for manifest in manifests.values()):
        return ""
    return draw_graph({manifest.key: box_of(step, manifest) for step, manifest in manifests.items()}, title)


def box_of(step: str, manifest: Manifest) -> Box:
    """An artifact: its step and stage, who was asked, the rows that came in and out, and the calls."""
    engines = {role: public_engine(engine) for role, engine in manifest.identity.get("engines", {}).items()}
    calls = sum(counters.get("sent", 0) for counters in manifest.spent.values())
    rows = f"{manifest.rows:,} rows" if not manifest.sources else f"{manifest.rows_in:,} rows in, {manifest.rows:,} out"
    lines = (
        step,
        "" if manifest.stage == step else manifest.stage,
        *players(engines),
        ("files" if manifest.files else rows) + (f", {calls:,} calls" if calls else ""),
    )
    beside = tuple(texts_in([manifest.identity, [*manifest.sources]]))
    origin = next(iter(manifest.sources), "")
    return Box(lines, "asks" if engines else "work" if manifest.sources else "read", origin, beside)
