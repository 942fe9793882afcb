"""Every figure that the README quotes, one runnable module each; `--json` prints one object as the last line."""
