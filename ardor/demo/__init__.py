"""The digits demo: a teacher and small students on handwritten digits, and the page to draw on."""
