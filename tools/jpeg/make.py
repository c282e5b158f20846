"""JPEG files of every kind that Pillow writes, and the pixels that Pillow reads from them.

    pip install -r requirements.txt
    python make.py ../../tests/data/jpeg

writes pack.bin (the files, one after another) and digests.txt: one line a file with its name, its bytes in the pack,
height, width and the SHA-256 of `convert("RGB")`, rows of red, green, blue.
"""
import hashlib
import io
import pathlib
import random
import sys

from PIL import Image, features

SEED = 20261124


def picture(rng, height, width, channels):
    """Waves, edges and noise."""
    a, b, p = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0, 6)
    from math import sin
    noise = rng.choice([0, 4, 40])
    edge = rng.randrange(1, width + 1)
    data = bytearray()
    for y in range(height):
        for x in range(width):
            for c in range(channels):
                v = 128 + 100 * sin(a * x / 4 + b * y / 4 + p + 2 * c) + (60 if x >= edge else 0) + rng.uniform(-noise, noise)
                data.append(min(255, max(0, int(v))))
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[channels]
    return Image.frombytes(mode, (width, height), bytes(data))


def adobe_transform(data, transform):
    """The same file with another colour transform in its Adobe segment: CMYK to YCCK."""
    place = data.index(b"Adobe") + 11
    return data[:place] + bytes([transform]) + data[place + 1:]


def main(folder):
    rng = random.Random(SEED)
    files = []

    def add(name, image, transform=None, **options):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", **options)
        data = buffer.getvalue()
        if transform is not None:
            data = adobe_transform(data, transform)
        rgb = Image.open(io.BytesIO(data)).convert("RGB")
        digest = hashlib.sha256(rgb.tobytes()).hexdigest()
        files.append((f"{len(files):03}-{name}", data, rgb.height, rgb.width, digest))

    kinds = []
    for progressive in (False, True):
        for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
            kinds.append((3, f"rgb-{subsampling}", dict(subsampling=subsampling, progressive=progressive)))
        kinds.append((1, "gray", dict(progressive=progressive)))
        kinds.append((4, "cmyk", dict(progressive=progressive)))
        kinds.append((4, "ycck", dict(progressive=progressive, transform=2)))
        kinds.append((3, "kept-rgb", dict(progressive=progressive, keep_rgb=True)))
    sides = [*range(1, 35), 39, 40, 41, 47, 48, 49, 63, 64, 65]
    for round_ in range(38):
        for channels, name, options in kinds:
            options = dict(options)
            options["quality"] = rng.choice([1, 5, 20, 50, 75, 90, 95, 100])
            if rng.random() < 0.25:
                options["optimize"] = True
            if rng.random() < 0.3:
                options["restart_marker_blocks"] = rng.randrange(1, 9)
                name += "-restart"
            elif rng.random() < 0.15:
                options["restart_marker_rows"] = rng.randrange(1, 3)
                name += "-restart-rows"
            if options.pop("progressive"):
                options["progressive"] = True
                name += "-progressive"
            # Odd sizes of both sides; some wide enough for a vector of the upsampling.
            height, width = rng.choice(sides), rng.choice(sides)
            if rng.random() < 0.05:
                width = rng.randrange(100, 180)
                height = rng.randrange(1, 12)
            add(name, picture(rng, height, width, channels), **options)
    folder = pathlib.Path(folder)
    with open(folder / "pack.bin", "wb") as pack, open(folder / "digests.txt", "w") as digests:
        turbo = features.version("libjpeg_turbo")
        digests.write(f"# Pillow {Image.__version__}, libjpeg-turbo {turbo}, seed {SEED}: name bytes height width sha256\n")
        for name, data, height, width, digest in files:
            pack.write(data)
            digests.write(f"{name} {len(data)} {height} {width} {digest}\n")
    print(len(files), "files")


if __name__ == "__main__":
    main(sys.argv[1])
