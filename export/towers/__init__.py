"""Vision towers and language prefills of vision-language models as modules with a baked grid, for export."""
