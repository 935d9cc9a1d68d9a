"""EPIC-KITCHENS-100, Kinetics-400 and folders of one's own, in tiny trees of the public layouts."""

import csv
import shutil

import pytest
import torch

from envs.actions import ClassFolders, EpicKitchens, Kinetics400
from eventful.errors import UserError, VideoError

EPIC_ROWS = """\
narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,\
narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes
P01_11_0,P01,P01_11,00:00:00.560,00:00:00.00,00:00:01.50,1,90,take plate,take,0,plate,2,['plate'],[2]
P01_11_1,P01,P01_11,00:00:00.560,00:00:01.25,00:00:02.00,75,120,put it down,put-down,1,plate,2,"['plate', 'it']",[2]
P22_07_0,P22,P22_07,00:00:00.560,00:00:00.50,00:00:03.00,25,150,pour,pour-in,9,water,27,['water'],[27]
"""


@pytest.fixture
def epic(tmp_path, video):
    root = tmp_path / "epic"
    root.mkdir()
    (root / "EPIC_100_validation.csv").write_text(EPIC_ROWS)
    video(59.94, 2.5, "epic/videos/P01_11.MP4")
    video(50, 3.5, "epic/P22/videos/P22_07.mp4")
    return root


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
    (epic / "EPIC_100_train.csv").write_text(EPIC_ROWS.splitlines()[0] + "\n")
    with pytest.raises(UserError, match="has no rows"):
        EpicKitchens(epic).videos("train")


NAMES = [f"class {k:03d}" for k in range(400)]


@pytest.fixture
def kinetics(tmp_path, video):
    """400 classes in any order, of which three videos are left."""
    root = tmp_path / "kinetics"
    rows = [f"{name},id{k:09d},{k},{k + 10},val" for k, name in enumerate(NAMES)]
    video(29.97, 2, "kinetics/videos/id000000399_000399_000409.mp4")
    for k in (7, 120):
        shutil.copy(root / "videos/id000000399_000399_000409.mp4", root / f"videos/id{k:09d}_{k:06d}_{k + 10:06d}.mp4")
    (root / "val.csv").write_text("\n".join(["label,youtube_id,time_start,time_end,split", *reversed(rows)]) + "\n")
    return root


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
    table = kinetics / "val.csv"
    table.write_text("\n".join(line for line in table.read_text().splitlines() if not line.startswith("class 2")))
    with pytest.raises(UserError, match="names 300 classes, Kinetics-400 has 400: give a file"):
        Kinetics400(kinetics).videos("val")
    names = kinetics / "names.txt"
    names.write_text("\n".join(reversed(NAMES)))
    assert [clip.label for clip in Kinetics400(kinetics, classes=names).videos("val")] == [392, 279, 0]
    names.write_text("\n".join(NAMES[:100]))
    with pytest.raises(UserError, match=r"line \d+: there is no class 'class 100' in .*names\.txt"):
        Kinetics400(kinetics, classes=names).videos("val")


def test_kinetics_without_tables_or_videos(kinetics):
    shutil.rmtree(kinetics / "videos")
    with pytest.raises(UserError, match=r"none of its 400 videos is there; .*videos/id0.*\.mp4 would be one"):
        Kinetics400(kinetics).videos("val")
    with pytest.raises(UserError, match=r"train\.csv is missing"):
        Kinetics400(kinetics).videos("train")


@pytest.fixture
def folders(tmp_path, video):
    for name in ("train/walk/a.mp4", "train/jump/b.mp4", "val/walk/c.mp4", "val/walk/d.mp4"):
        video(12, 1, f"own/{name}")
    (tmp_path / "own/val/walk/notes.txt").write_text("no video")
    (tmp_path / "own/val/jump").mkdir()
    return tmp_path / "own"


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
