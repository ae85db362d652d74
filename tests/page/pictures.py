"""The README's pictures of the page, from the screenshots that its test left: cut, reduced, in 255 colours."""
import os
import sys

from PIL import Image

WIDTH, MOST_BYTES = 960, 150 * 1024
# screenshot, picture, what of its height is shown
PICTURES = (("convergence-light.png", "convergence.png", (566, 1884)),
            ("playground-dark.png", "playground-dark.png", (0, 1060)))

source, target = sys.argv[1:]
for name, picture, (top, bottom) in PICTURES:
    image = Image.open(os.path.join(source, name)).convert("RGB")
    image = image.crop((0, top, image.width, min(bottom, image.height)))
    image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
    path = os.path.join(target, picture)
    # by the colours there are, not by how much there is of each: thin lines keep theirs
    image.quantize(255, method=Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE).save(path, optimize=True)
    if os.path.getsize(path) > MOST_BYTES:
        sys.exit("%s has %d bytes" % (path, os.path.getsize(path)))
