"""Model cards for people: the one JSON document as Markdown and as HTML."""
