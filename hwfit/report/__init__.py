"""What a person looks at: one self-contained HTML page, a picture and a table of a run."""
