"""A parsed HTML page, for tests of what is written."""

from dataclasses import dataclass, field
from html.parser import HTMLParser


@dataclass
class Page(HTMLParser):
    """A parsed page: its text, and every element as (tag, attributes)."""

    html: str
    text: str = ""
    elements: list = field(default_factory=list)

    def __post_init__(self):
        super().__init__()
        self.feed(self.html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        """The attributes of every element of a kind."""
        return [attributes for found, attributes in self.elements if found == tag]

    def count(self, tag, name=None):
        """How many elements of a kind there are, or how many of them in the class `name`."""
        return sum(name is None or name in attributes.get("class", "").split() for attributes in self.all(tag))
