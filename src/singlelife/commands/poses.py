"""`singlelife poses`: where a life's frames were taken from, and which points they see."""

import argparse
import sys
from pathlib import Path

from singlelife.commands.options import Commands, HelpFormatter, add_cache_dir

_EPILOG = """\
examples:
  singlelife poses sim_1                            from its own depth
  singlelife poses hdepic_1 --from SLAM-and-Gaze/P01/SLAM/multi
                                                    from Aria MPS output
  singlelife poses my_day --video day/*.mp4         reconstructed from the frames (needs singlelife[poses])

Without --from, what lies in the folder slam of the life's recordings is taken (lives/NAME/slam), else the life's own
depth and poses, else the frames are reconstructed with COLMAP. What was made before is shown, not made again, unless
its source or a setting has changed."""


def add_command(commands: Commands) -> None:
    """Describe `singlelife poses`."""
    command = commands.add_parser(
        "poses",
        help="find the camera poses and visible points of a life, for spatial pairs",
        description="Find where each frame of a life was taken from and which points of the world it sees, and keep "
        "that beside the life. Spatial pairs are drawn from it.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    command.add_argument("life", help="a name that `singlelife lives` lists, or a new one with --video")
    command.add_argument("--video", nargs="+", metavar="PATH", help="files, folders or globs of your recording")
    command.add_argument(
        "--from", dest="source", type=Path, metavar="FOLDER", help="Aria MPS output, or COLMAP models"
    )
    command.add_argument(
        "--rate", type=float, default=2.0, metavar="HZ", help="frames to reconstruct per second (default: %(default)s)"
    )
    settings = command.add_argument_group("settings (default: as made before)")
    settings.add_argument("--voxel-size", type=float, metavar="SIZE", help="side of the voxels that stand for points, "
                          "in the poses' unit (default: 0.1 m for Aria; an eighth of the median depth)")  # fmt: skip
    aria = command.add_argument_group("settings for Aria MPS")
    aria.add_argument("--tolerance", type=float, metavar="SECONDS", help="between a frame and its pose, and the "
                      "points it sees (default: 0.05)")  # fmt: skip
    aria.add_argument("--video-start", metavar="SECONDS", help="when the video begins on the device's clock, or "
                      "`trajectory`: at the first pose; needed where no NAME_mp4_to_vrs_time_ns.csv says")  # fmt: skip
    aria.add_argument("--max-inv-dist-std", type=float, metavar="X", help="of the points, in 1/m (default: 0.005)")
    aria.add_argument("--max-dist-std", type=float, metavar="X", help="of the points, in m (default: 0.01)")
    aria.add_argument("--max-distance", type=float, metavar="M", help="of points, where there are no observations "
                      "(default: 5)")  # fmt: skip
    aria.add_argument("--sideways", dest="upright", action="store_const", const=False, help="the videos are as the "
                      "sensor is mounted, not turned upright")  # fmt: skip
    add_cache_dir(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict, fields

    from singlelife.errors import LifeError
    from singlelife.lives.resolve import resolve_life
    from singlelife.lives.scene.geometry import GeometrySettings
    from singlelife.lives.scene.store import find_source, geometry_metadata, life_geometry

    if not 0 < arguments.rate <= 1000:
        raise LifeError(f"--rate should be more than 0 Hz and up to 1000, not {arguments.rate:g}.")
    life = resolve_life(arguments.life, videos=arguments.video, cache_dir=arguments.cache_dir)
    metadata = geometry_metadata(life)
    given = {field.name: getattr(arguments, field.name) for field in fields(GeometrySettings)}
    given = {name: value for name, value in given.items() if value is not None}
    before = metadata["settings"] if metadata else asdict(GeometrySettings())
    settings = GeometrySettings(**(before | given))

    source, tried = arguments.source, 0
    if source is None and metadata is None and find_source(life) is None:
        from singlelife.lives.scene.sfm import reconstruct, thinned

        tried = len(thinned(life, arguments.rate))
        print(f"No poses are given with {life.name}: reconstructing them from {tried:,} frames.", file=sys.stderr)
        source = reconstruct(life, rate=arguments.rate)
    geometry = life_geometry(life, source=source, settings=settings)
    metadata = geometry_metadata(life)
    assert metadata is not None
    known = geometry.component >= 0
    if tried:
        print(f"{life.name}: {known.sum():,} of the {tried:,} frames tried could be placed")
    print(f"{life.name}: {known.sum():,} of {len(life):,} frames have a pose, from {metadata['source']}, in "
          f"{metadata['components']} component(s)")  # fmt: skip
    for component in set(geometry.component[known].tolist()):
        mine = geometry.component == component
        counts = sorted(geometry.points.counts[mine].tolist())
        print(
            f"  component {component}: {mine.sum():,} frames, {counts[len(counts) // 2]:,} points in the median frame"
        )
    for number, video in enumerate(life.videos):
        mine = life.video_index == number
        if not known[mine].any():
            print(f"  no frame of {video} has a pose")
    print(f"  kept in {life.path / 'geometry'}")
    if known.sum() * 2 < tried:
        print(
            "warning: most frames could not be placed. COLMAP needs texture and a camera that moves sideways; a "
            "steady drive ahead, turning on the spot and blur give it nothing. Another --rate may do better.",
            file=sys.stderr,
        )
    for warning in metadata["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    return 0
