"""ImageNet VID in all its layouts: what is read, how clips are split, what is said of what is missing."""

import json

import pytest
import torch

from envs.vid import VID_CLASSES, ClassList, read_coco_video, read_official, read_published
from eventful.errors import UserError

KEPT = ["00000000:0-3", "00000001:0-1", "00000001:5-5", "00000002:0-1"]
WITH_OBJECTS = ["00000000:0-1", "00000000:3-3", "00000001:0-1", "00000001:5-5"]


def names(split):
    return [sequence.name.removeprefix("ILSVRC2015_val_") for sequence in split.sequences]


def check(split, dog, zebra):
    """Boxes, labels and images of the first sequence, with whatever labels dog and zebra have."""
    first = split.sequences[0]
    boxes = [target["boxes"].tolist() for target in first.targets]
    assert boxes[:2] == [[[2, 3, 20, 13]], [[2, 3, 20, 13], [0, 0, 31, 23]]]
    assert [target["labels"].tolist() for target in first.targets][:2] == [[dog], [dog, zebra]]
    assert all(target["boxes"].dtype == torch.float32 for target in first.targets)
    for sequence in split.sequences:
        images = list(sequence.images())
        assert len(images) == len(sequence) and {tuple(image.shape) for image in images} == {(24, 32, 3)}
        numbers = [frame.number for frame in sequence.frames]
        assert [round(image.float().mean().item() / 10) for image in images] == numbers


def test_the_classes_are_those_of_the_published_detector():
    assert len(VID_CLASSES) == 30 and len(set(VID_CLASSES.ids)) == 30
    assert [VID_CLASSES.names[k] for k in (0, 8, 9, 12, 20, 29)] == [
        "airplane", "dog", "domestic_cat", "giant_panda", "red_panda", "zebra"
    ]  # fmt: skip
    assert VID_CLASSES.label("n02391049", "here") == 29
    assert list(VID_CLASSES.names) == sorted(VID_CLASSES.names)


def test_the_official_layout(official):
    split = read_official(official)
    assert names(split) == KEPT and split.left_out == 0 and split.frames == 9
    check(split, 8, 29)
    empty = split.sequences[0].targets[2]
    assert empty["boxes"].shape == (0, 4) and empty["labels"].shape == (0,)


def test_frames_without_objects_can_be_left_out(official):
    split = read_official(official, empty="drop")
    assert names(split) == WITH_OBJECTS and split.left_out == 3 and split.frames == 6


def test_the_published_layouts(published):
    split = read_published(published)
    assert names(split) == KEPT
    check(split, 8, 29)
    assert names(read_published(published, empty="drop")) == WITH_OBJECTS


@pytest.mark.parametrize("published", ["flat"], indirect=True)
def test_minival_shares_the_images_of_val(published):
    content = json.loads((published / "annotations/vid_val.json").read_text())
    content["images"] = content["images"][:1]
    content["annotations"] = content["annotations"][:1]
    (published / "annotations/vid_minival.json").write_text(json.dumps(content))
    assert names(read_published(published, "vid_minival")) == ["00000000:0-0"]


def test_a_set_of_your_own(coco_video):
    split = read_coco_video(coco_video)
    assert names(split) == KEPT and split.classes.names == ("plane", "dog", "zebra")
    check(split, 1, 2)
    assert names(read_coco_video(coco_video, step=4))[1] == "00000001:0-5"
    assert names(read_coco_video(coco_video, empty="drop")) == WITH_OBJECTS


def test_other_classes_in_the_official_layout(official):
    split = read_official(official, classes=ClassList(("striped", "barking"), ("n02391049", "n02084071")))
    check(split, 1, 0)


FAULTS = {
    "ImageSets/VID/val.txt": r"val\.txt is missing.*<clip>/<frame>",
    "Annotations/VID/val/ILSVRC2015_val_00000001/000001.xml": r"00000001/000001\.xml is missing.*has the boxes of",
    "Data/VID/val/ILSVRC2015_val_00000000/000003.JPEG": r"00000000/000003\.JPEG is missing.*val\.txt lists it",
}


@pytest.mark.parametrize("path", FAULTS)
def test_a_missing_file_is_named_with_what_it_was_for(official, path):
    (official / path).unlink()
    with pytest.raises(UserError, match=FAULTS[path]):
        read_official(official)


def test_a_missing_folder_is_named(official, tmp_path):
    (official / "Annotations").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"000000\.xml is missing \(there is no folder .*Annotations"):
        read_official(official)
    with pytest.raises(UserError, match=r"neither .*labels\.json nor .*vid_val\.json is there"):
        read_published(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "<annotation><object><name>n00000000</name></object></annotation>",
            r"no class 'n00000000'; the 30 classes are",
        ),
        (
            "<annotation><object><name>n02084071</name></object></annotation>",
            r"000001\.xml: .* lacks a number of its bndbox",
        ),
        ("<annotation><object>", r"000001\.xml cannot be read"),
    ],
)
def test_an_annotation_that_is_wrong_is_named(official, content, said):
    (official / "Annotations/VID/val/ILSVRC2015_val_00000000/000001.xml").write_text(content)
    with pytest.raises(UserError, match=said):
        read_official(official)


@pytest.mark.parametrize("line", ["000000 1", "clip/last 4", ""])
def test_a_line_of_another_kind_is_named(official, line):
    listed = official / "ImageSets/VID/val.txt"
    listed.write_text("ILSVRC2015_val_00000000/000000 1\n" + line + "\n")
    with pytest.raises(UserError, match=r"val\.txt, line 2: a line is <clip>/<frame>"):
        read_official(official)


def test_a_clip_without_objects_alone_is_no_split_when_they_are_left_out(official):
    listed = official / "ImageSets/VID/val.txt"
    listed.write_text("ILSVRC2015_val_00000002/000000 1\nILSVRC2015_val_00000002/000001 2\n")
    assert read_official(official).frames == 2
    with pytest.raises(UserError, match="no frames with objects"):
        read_official(official, empty="drop")
    listed.write_text("")
    with pytest.raises(UserError, match=r"there are no frames$"):
        read_official(official)


def test_a_frame_that_is_listed_twice_is_refused(official):
    listed = official / "ImageSets/VID/val.txt"
    listed.write_text("ILSVRC2015_val_00000002/000000 1\n" * 2)
    with pytest.raises(UserError, match="frame 0 of clip ILSVRC2015_val_00000002 is listed twice"):
        read_official(official)


def change(path, part, number, **values):
    content = json.loads(path.read_text())
    content[part][number] |= values
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("part", "values", "said"),
    [
        ("annotations", {"category_id": 31}, r"no class with category_id 31 \(there are 1, 9, 30\)"),
        ("annotations", {"category_id": None}, "no class with category_id None"),
        ("annotations", {"image_id": 99}, "no image with id 99"),
        ("annotations", {"bbox": [1, 2, 3]}, r"bbox must be \[x, y, width, height\], got \[1, 2, 3\]"),
        ("annotations", {"bbox": [1, 2, -3, 4]}, "bbox must be"),
        ("annotations", {"iscrowd": 1}, "crowd"),
        ("images", {"video_id": 1}, "no video with id 1"),
        ("images", {"frame_id": "x"}, "frame_id must be a whole number"),
        ("images", {"file_name": "a/b.jpg"}, r"a/b\.jpg is missing \(there is no folder"),
        ("images", {"id": 2}, "id 2 twice"),
        ("videos", {"name": "ILSVRC2015_val_00000001"}, "same name"),
    ],
)
def test_what_is_wrong_with_a_set_of_your_own_is_said(coco_video, part, values, said):
    change(coco_video, part, 0, **values)
    with pytest.raises(UserError, match=said):
        read_coco_video(coco_video)


def test_a_class_beyond_the_thirty_is_refused(published):
    listed = next(path for path in published.rglob("*.json"))
    change(listed, "annotations", 2, category_id=31)
    with pytest.raises(UserError, match=r"annotation 2: there is no class with category_id 31 \(there are 1 to 30\)"):
        read_published(published)


def test_a_published_name_that_tells_no_clip_is_refused(published):
    listed = next(path for path in published.rglob("*.json"))
    change(listed, "images", 0, file_name="frame.JPEG")
    with pytest.raises(UserError, match=r"ends in _<clip>_<frame>, got frame\.JPEG"):
        read_published(published)


@pytest.mark.parametrize(
    ("content", "said"), [("{", "is no JSON"), ("[]", "no list 'videos'"), ('{"videos": 3}', "no list")]
)
def test_a_file_of_another_kind_is_refused(coco_video, content, said):
    coco_video.write_text(content)
    with pytest.raises(UserError, match=said):
        read_coco_video(coco_video)


@pytest.mark.parametrize("options", [{"empty": "maybe"}, {"step": 0}])
def test_arguments_that_there_are_not(official, options):
    with pytest.raises(UserError, match=r"keep or drop|at least 1"):
        read_official(official, **options)
