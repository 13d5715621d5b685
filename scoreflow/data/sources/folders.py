"""Image files below a folder."""

from pathlib import Path

from scoreflow.errors import RequestError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})


def image_files(root: Path) -> list[tuple[Path, str | None]]:
    """The image files below root in the order of their names, each with its class or None."""
    found = {}
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        hidden = any(part.startswith(".") for part in parts)
        if not hidden and path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            found[parts] = (path, parts[0] if len(parts) > 1 else None)
    if not found:
        raise RequestError(
            f"no images in {root}: expected files that end in {' '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return [found[parts] for parts in sorted(found)]
