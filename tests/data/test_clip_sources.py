"""Animated files as clips: every frame as it was written, and what cannot be read is said."""

import io

import numpy as np
import pytest
from PIL import Image, features

from vitjax.data.clip_sources import ClipFolder, ClipList, open_clips
from vitjax.data.digit_clips import DigitClips
from vitjax.data.images import BrokenExample, decode_frames
from vitjax.errors import UserError


def flat_frames(count=4, rows=10, columns=14):
    """A grey square on black that moves: few colours, which GIF keeps."""
    video = np.zeros((count, rows, columns, 3), np.uint8)
    for number in range(count):
        video[number, 2:6, number : number + 4] = 60 * (number + 1)
    return video


def write(path, video, **settings):
    first, *others = [Image.fromarray(frame) for frame in video]
    first.save(path, save_all=True, append_images=others, **settings)
    return path


KINDS = [
    ("gif", {"disposal": 1}),
    ("gif", {"disposal": 2, "duration": [10, 200, 30, 40], "loop": 0}),
    ("png", {}),
    pytest.param(
        "webp", {"lossless": True}, marks=pytest.mark.skipif(not features.check("webp"), reason="Pillow without WebP")
    ),
]


@pytest.mark.parametrize(("ending", "settings"), KINDS)
def test_all_frames_come_back_whatever_the_format(ending, settings, tmp_path):
    video = flat_frames()
    path = write(tmp_path / f"clip.{ending}", video, **settings)
    np.testing.assert_array_equal(decode_frames(path), video)
    np.testing.assert_array_equal(decode_frames(path.read_bytes()), video)
    with Image.open(path) as picture:
        np.testing.assert_array_equal(decode_frames(picture), video)


def test_a_still_picture_and_arrays_are_clips_too(tmp_path):
    video = flat_frames()
    Image.fromarray(video[2]).save(tmp_path / "still.png")
    np.testing.assert_array_equal(decode_frames(tmp_path / "still.png"), video[2:3])
    np.testing.assert_array_equal(decode_frames(video[2]), video[2:3])
    np.testing.assert_array_equal(decode_frames(video), video)
    np.testing.assert_array_equal(decode_frames(video[..., :1] / 255.0), np.repeat(video[..., :1], 3, axis=-1))
    with pytest.raises(UserError, match="expected \\[rows, columns\\]"):
        decode_frames(np.zeros((2, 3, 4, 4, 3), np.uint8))


def test_the_picture_in_front_of_a_png_is_no_frame(tmp_path):
    video = flat_frames()
    front = Image.new("RGB", (14, 10), (200, 0, 0))
    frames = [Image.fromarray(frame) for frame in video]
    front.save(tmp_path / "clip.png", save_all=True, default_image=True, append_images=frames)
    np.testing.assert_array_equal(decode_frames(tmp_path / "clip.png"), video)


def test_transparent_parts_are_white_in_every_frame(tmp_path):
    frames = []
    for number in range(3):
        frame = Image.new("RGBA", (6, 4), (0, 0, 0, 0))
        frame.putpixel((number, 1), (10, 20, 30, 255))
        frames.append(frame)
    frames[0].save(tmp_path / "clip.png", save_all=True, append_images=frames[1:], disposal=1)
    video = decode_frames(tmp_path / "clip.png")
    for number in range(3):
        expected = np.full((4, 6, 3), 255)
        expected[1, number] = (10, 20, 30)
        np.testing.assert_array_equal(video[number], expected)


def test_broken_and_oversized_files_are_named(tmp_path):
    path = write(tmp_path / "clip.gif", flat_frames())
    with pytest.raises(BrokenExample, match="4 frames of 14x10 pixels are more than `max_pixels`=500"):
        decode_frames(path, max_pixels=500)
    (tmp_path / "cut.gif").write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BrokenExample, match=r"cut\.gif"):
        decode_frames(tmp_path / "cut.gif")
    pages = [Image.new("RGB", (4, 4)), Image.new("RGB", (5, 4))]
    pages[0].save(tmp_path / "pages.tiff", save_all=True, append_images=pages[1:])
    with pytest.raises(BrokenExample, match="different sizes"):
        decode_frames(tmp_path / "pages.tiff")


def folder_of_clips(root, classes=("wave", "nod"), count=3):
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(count):
            write(root / name / f"{number}.gif", flat_frames(2 + number, columns=12 + label))
    return root


def test_a_folder_of_clips(tmp_path):
    folder_of_clips(tmp_path / "clips")
    train = open_clips(f"folder:{tmp_path}/clips", "train", validation_share=0.34)
    held_back = open_clips(f"folder:{tmp_path}/clips", "validation", validation_share=0.34)
    assert isinstance(train, ClipFolder)
    assert (train.labels, len(train), len(held_back)) == (("nod", "wave"), 4, 2)
    seen = set()
    for source in (train, held_back):
        for index in range(len(source)):
            example = source[index]
            assert example["index"] == index
            assert example["label"] == source.example_labels()[index]
            assert example["video"].shape[1:] == (10, 13 - example["label"], 3)
            seen.add((example["label"], len(example["video"])))
    assert seen == {(label, count) for label in range(2) for count in (2, 3, 4)}
    with pytest.raises(IndexError):
        train[4]


def test_video_files_are_refused_with_a_way_out(tmp_path):
    for name in ("wave", "nod"):
        (tmp_path / "clips" / name).mkdir(parents=True)
        (tmp_path / "clips" / name / "1.MP4").write_bytes(b"video")
    with pytest.raises(UserError, match="no video decoder is among vitjax's dependencies; convert it: ffmpeg"):
        ClipFolder(str(tmp_path / "clips"), "train")
    clip = ClipList(str(tmp_path / "clips" / "nod" / "1.MP4"))
    with pytest.raises(BrokenExample, match="no video decoder"):
        clip[0]
    with pytest.raises(UserError, match="no such folder"):
        ClipFolder(str(tmp_path / "nothing"), "train")


def test_short_names():
    source = open_clips("digits", "validation", num_clips=9, sides=(20, 30), frames=(2, 3), seed=4)
    assert source == DigitClips("validation", 9, 4, (20, 30), (2, 3))
    with pytest.raises(UserError, match="with TensorFlow only"):
        open_clips("tfds:ucf101", "train")
    with pytest.raises(UserError, match="expected digits or folder:PATH"):
        open_clips("kinetics", "train")


def test_a_list_of_whatever_is_at_hand(tmp_path):
    video = flat_frames()
    path = write(tmp_path / "clip.gif", video)
    buffer = io.BytesIO()
    Image.fromarray(video[1]).save(buffer, "PNG")
    clips = ClipList([str(path), video, buffer.getvalue(), video[0]])
    assert [len(clips[number]["video"]) for number in range(len(clips))] == [4, 4, 1, 1]
    assert clips.names[0] == str(path)
    np.testing.assert_array_equal(clips[0]["video"], video)
