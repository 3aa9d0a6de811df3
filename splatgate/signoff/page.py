"""stub"""

from splatgate.signoff.decide import Signoff
from splatgate.signoff.pictures import Media


def render(signoff: Signoff, media: Media) -> str:
    """The page."""
    return "<!doctype html>"
