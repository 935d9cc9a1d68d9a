"""EPIC-KITCHENS-100, Kinetics-400 and folders of one's own, in tiny trees of the public layouts."""

import csv
import shutil

import pytest
import torch

from envs.actions import ClassFolders, EpicKitchens, Kinetics400
from eventful.errors import UserError, VideoError


def test_epic_clips_have_verbs_and_are_counted_at_thirty_frames_a_second(epic, seen_numbers):
    clips = EpicKitchens(epic).videos("validation")
    assert [(clip.name, clip.label, clip.num_frames) for clip in clips] == [
        ("P01_11_0", 0, 45), ("P01_11_1", 1, 23), ("P22_07_0", 9, 75)
    ]  # fmt: skip
    sixty = seen_numbers(clips[0].frames()[torch.arange(32)])
    assert sixty.tolist() == list(range(0, 64, 2))
    fifty = seen_numbers(clips[2].frames()[torch.tensor([0, 3, 30, 60])])
    assert fifty.tolist() == [25, 30, 75, 125]


def edit(path, row, **values):
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[row] |= values
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"verb_class": "97"}, "line 3: verb_class must be 0 to 96, got '97'"),
        ({"verb_class": "take"}, "verb_class must be 0 to 96, got 'take'"),
        ({"start_timestamp": "1.5"}, r"line 3: a timestamp is HH:MM:SS\.ss, got '1\.5'"),
        ({"stop_timestamp": "00:00:01.25"}, "the clip stops at 00:00:01.25, where it has not started"),
    ],
)
def test_a_wrong_row_is_named(epic, values, said):
    edit(epic / "EPIC_100_validation.csv", 1, **values)
    with pytest.raises(UserError, match=said):
        EpicKitchens(epic).videos("validation")


def test_a_missing_epic_video_is_an_error_or_counted(epic):
    (epic / "videos/P01_11.MP4").unlink()
    with pytest.raises(VideoError, match=r"videos/P01_11\.MP4 does not exist"):
        EpicKitchens(epic).videos("validation")
    found = EpicKitchens(epic, broken="skip")
    assert [clip.name for clip in found.videos("validation")] == ["P22_07_0"]
    assert set(found.left_out) == {"P01_11_0", "P01_11_1"}


def test_a_clip_that_lies_behind_its_video_is_an_error(epic):
    edit(epic / "EPIC_100_validation.csv", 1, start_timestamp="00:01:00.00", stop_timestamp="00:01:01.00")
    with pytest.raises(VideoError, match=r"clip P01_11_1 starts at 60\.00 s"):
        EpicKitchens(epic).videos("validation")


def test_epic_tables_that_are_missing_or_others_are_named(epic, tmp_path):
    with pytest.raises(UserError, match=r"EPIC_100_train\.csv is missing.*narration_id"):
        EpicKitchens(epic).videos("train")
    with pytest.raises(UserError, match="no split 'test'; it has train, validation"):
        EpicKitchens(epic).videos("test")
    (epic / "EPIC_100_train.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"no column narration_id \(it has a, b\)"):
        EpicKitchens(epic).videos("train")
    (epic / "EPIC_100_train.csv").write_text((epic / "EPIC_100_validation.csv").read_text().splitlines()[0] + "\n")
    with pytest.raises(UserError, match="has no rows"):
        EpicKitchens(epic).videos("train")


def test_kinetics_has_the_videos_that_are_left(kinetics, seen_numbers):
    found = Kinetics400(kinetics)
    clips = found.videos("val")
    assert [(clip.label, clip.num_frames) for clip in clips] == [(7, 50), (120, 50), (399, 50)]
    assert clips[0].name == "id000000007_000007_000017" and found.missing == 397 and not found.left_out
    assert seen_numbers(clips[0].frames()[torch.tensor([0, 25])]).tolist() == [0, 30]
    (kinetics / "val.csv").rename(kinetics / "labels.csv")
    assert found.videos("val") == clips


def test_kinetics_videos_that_cannot_be_decoded_are_counted(kinetics, caplog):
    (kinetics / "videos/id000000120_000120_000130.mp4").write_bytes(b"gone")
    found = Kinetics400(kinetics)
    assert [clip.label for clip in found.videos("val")] == [7, 399]
    assert list(found.left_out) == ["id000000120_000120_000130"] and "1 of 3 clips are left out" in caplog.text
    with pytest.raises(VideoError, match="id000000120"):
        Kinetics400(kinetics, broken="error").videos("val")


def test_a_part_of_kinetics_needs_a_list_of_classes(kinetics):
    every = [f"class {k:03d}" for k in range(400)]
    table = kinetics / "val.csv"
    table.write_text("\n".join(line for line in table.read_text().splitlines() if not line.startswith("class 2")))
    with pytest.raises(UserError, match="names 300 classes, Kinetics-400 has 400: give a file"):
        Kinetics400(kinetics).videos("val")
    names = kinetics / "names.txt"
    names.write_text("\n".join(reversed(every)))
    assert [clip.label for clip in Kinetics400(kinetics, classes=names).videos("val")] == [392, 279, 0]
    names.write_text("\n".join(every[:100]))
    with pytest.raises(UserError, match=r"line \d+: there is no class 'class 100' in .*names\.txt"):
        Kinetics400(kinetics, classes=names).videos("val")


def test_kinetics_without_tables_or_videos(kinetics):
    shutil.rmtree(kinetics / "videos")
    with pytest.raises(UserError, match=r"none of its 400 videos is there; .*videos/id0.*\.mp4 would be one"):
        Kinetics400(kinetics).videos("val")
    with pytest.raises(UserError, match=r"train\.csv is missing"):
        Kinetics400(kinetics).videos("train")


def test_folders_are_classes_whatever_split_they_are_in(folders):
    found = ClassFolders(folders)
    assert found.classes == ["jump", "walk"]
    assert [(clip.name, clip.label) for clip in found.videos("train")] == [("jump/b.mp4", 0), ("walk/a.mp4", 1)]
    assert [(clip.name, clip.label) for clip in found.videos("val")] == [("walk/c.mp4", 1), ("walk/d.mp4", 1)]
    assert found.videos("val")[0].num_frames == 12
    assert ClassFolders(folders, rate=6).videos("val")[0].num_frames == 6


def test_folders_that_say_nothing_are_refused(folders, tmp_path):
    with pytest.raises(UserError, match="no split 'test'; it has train, val"):
        ClassFolders(folders).videos("test")
    with pytest.raises(UserError, match="a folder for each split, with a folder for each class"):
        ClassFolders(tmp_path / "nowhere")
    shutil.rmtree(folders / "val/walk")
    with pytest.raises(UserError, match="val has no clips"):
        ClassFolders(folders).videos("val")


@pytest.mark.parametrize("make", [EpicKitchens, Kinetics400, ClassFolders])
@pytest.mark.parametrize("options", [{"rate": 0}, {"rate": float("inf")}, {"broken": "maybe"}])
def test_arguments_that_there_are_not(make, options, tmp_path):
    with pytest.raises(UserError, match=r"rate must be positive|broken must be error or skip"):
        make(tmp_path, **options)
