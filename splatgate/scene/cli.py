"""The verbs ``scene`` and ``splats``: JSON on standard output, all else on standard error."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from splatgate.evidence import BadInput, to_json
from splatgate.scene.judge import SceneVerdict, judge_scene
from splatgate.scene.truth import SplatsVerdict, judge_splats_at

OK, FAILED, UNUSABLE = 0, 1, 3


def main_scene(argv: Sequence[str]) -> int:
    """``scene DIR [--json]``: judge a scene. Returns 0 sound, 1 unsound, 3 no such folder."""
    parser = _parser("scene", "Judge a scene: a COLMAP model and its photographs.")
    parser.add_argument(
        "scene", type=Path, metavar="DIR", help="folder that holds sparse/0 and images"
    )

    def run(options: argparse.Namespace) -> tuple[SceneVerdict, bool, list[str]]:
        verdict = judge_scene(options.scene, _say)
        lines = [f"{finding.code}: {finding.reason}" for finding in verdict.findings]
        lines += [f"note {note.code}: {note.reason}" for note in verdict.notes]
        counts = f"{verdict.images} images, {verdict.points} points, {verdict.tracks} tracks"
        lines.append(f"{counts}, {verdict.observations} observations")
        return verdict, verdict.ok, [*lines, "sound" if verdict.ok else "unsound"]

    return _main(parser, argv, run)


def main_splats(argv: Sequence[str]) -> int:
    """``splats PLY --scene DIR``: judge a ``.ply``. Returns 0 sound, 1 not sound, 3 bad input.

    Not sound: the layout or the encoding is wrong, or it is no better than the best trivial answer.
    """
    parser = _parser(
        "splats", "Judge a .ply against its scene: layout, encoding, quality of the held-out views."
    )
    parser.add_argument("ply", type=Path, metavar="PLY", help="splats in the INRIA layout")
    parser.add_argument(
        "--scene", type=Path, required=True, metavar="DIR", help="the scene it was trained on"
    )
    parser.add_argument(
        "--max-image-size", type=_pixels, metavar="N", help="longer side of the views in pixels"
    )

    def run(options: argparse.Namespace) -> tuple[SplatsVerdict, bool, list[str]]:
        verdict = judge_splats_at(options.ply, options.scene, options.max_image_size, _say)
        lines = list(verdict.problems)
        if (
            verdict.psnr is not None
            and verdict.baselines is not None
            and verdict.margin is not None
        ):
            trivial = verdict.baselines
            lines += [
                f"{verdict.count} splats, {verdict.moved:.0%} of them moved, "
                f"PSNR {verdict.psnr:.2f} dB, SSIM {verdict.ssim:.3f}",
                f"{verdict.margin:+.2f} dB over the best of three trivial answers: mean colour "
                f"{trivial.mean_colour:.2f}, nearest photograph {trivial.nearest_photo:.2f}, "
                f"SfM points {trivial.sfm_points:.2f}",
            ]
        ok = verdict.layout_ok and verdict.logits_ok and (verdict.margin or 0) > 0
        return verdict, ok, [*lines, "sound" if ok else "not sound"]

    return _main(parser, argv, run)


def _main(
    parser: argparse.ArgumentParser,
    argv: Sequence[str],
    run: Callable[[argparse.Namespace], tuple[SceneVerdict | SplatsVerdict, bool, list[str]]],
) -> int:
    try:
        options = parser.parse_args(argv)
    except SystemExit as end:
        # argparse's own 2 means something else here: bad input is 3.
        return UNUSABLE if end.code else OK
    try:
        verdict, ok, lines = run(options)
    except BadInput as error:
        _say(str(error))
        return UNUSABLE
    if options.json:
        sys.stdout.write(to_json(verdict).decode())
    else:
        for line in lines:
            _say(line)
    return OK if ok else FAILED


def _parser(verb: str, what: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m splatgate {verb}", description=what)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser


def _pixels(text: str) -> int:
    value = int(text)
    if value < 11:
        raise argparse.ArgumentTypeError("at least 11 pixels, the window of SSIM")
    return value


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
