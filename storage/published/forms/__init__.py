"""The forms of rows that several formats and trainers share: a frame of one kind of rows in, a frame out."""
