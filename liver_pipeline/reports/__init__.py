"""HTML and Markdown pages: self-contained, light and dark."""
