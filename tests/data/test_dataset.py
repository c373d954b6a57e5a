from __future__ import annotations

import copy
import logging
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recbole.data import create_dataset, data_preparation
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.data.interaction import Interaction

from recbole_mm.data.dataset import MultimodalDataset, MultimodalSequentialDataset
from tests.data.support import (
    check_alignment,
    make_config,
    make_dataset,
    random_pairs,
    vector,
    vectors,
    write_inter,
    write_npy,
    write_npz,
)

ITEMS = [f"i{item}" for item in range(15)]
USERS = [f"u{user}" for user in range(12)]


def with_items(folder: Path, **modalities: list[str]) -> dict[str, set[str]]:
    for modality, tokens in modalities.items():
        write_npz(folder, f"{folder.name}.item.{modality}", tokens)
    return {modality: set(tokens) for modality, tokens in modalities.items()}


class TestAlignment:
    """A feature is a function of the token, whatever happens to the ids."""

    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(
        seed=st.integers(0, 10_000),
        prefix=st.sampled_from(["", "ü ", "漢字-", "0"]),
        k_core=st.sampled_from([None, "[2,inf)", "[3,inf)"]),
        missing=st.sampled_from(["zero", "drop"]),
        sequential=st.booleans(),
        memory_map=st.booleans(),
    )
    def test_under_filters_and_shuffled_files(
        self, tmp_path_factory, seed, prefix, k_core, missing, sequential, memory_map
    ) -> None:
        folder = tmp_path_factory.mktemp("data") / "tiny"
        generator = np.random.default_rng(seed)
        write_inter(folder, "tiny", random_pairs(14, 12, seed, prefix, least=6))
        having = {}
        for modality, entity, count in (("image", "item", 16), ("text", "item", 16), ("profile", "user", 18)):
            tokens = [f"{prefix}{entity[0]}{k}" for k in generator.permutation(count) if generator.random() < 0.9]
            having[modality] = set(tokens)
            if memory_map:
                write_npy(folder, f"tiny.{entity}.{modality}", tokens, header=f"{entity}_id:token")
            else:
                write_npz(folder, f"tiny.{entity}.{modality}", tokens)
        dataset = make_dataset(
            folder.parent, sequential=sequential, missing_feature=missing,
            user_inter_num_interval=k_core, item_inter_num_interval=k_core,
        )  # fmt: skip
        items, users = {m: having[m] for m in ("image", "text")}, {"profile": having["profile"]}
        check_alignment(dataset, items)
        check_alignment(dataset, users, "user")
        if missing == "drop":
            tables = [*dataset.features.item.values(), *dataset.features.user.values()]
            assert all(table.observed[1:].all() for table in tables)
        for part in dataset.build():
            check_alignment(part, items)

    @pytest.mark.parametrize("memory_map", [False, True])
    def test_tokens_are_text_however_much_they_look_like_numbers(self, tmp_path: Path, memory_map: bool) -> None:
        alike = ["7", "007", "7.0", "+7", "7e0", "0x7", "7 ", "\N{ROMAN NUMERAL SEVEN}", "\N{ARABIC-INDIC DIGIT SEVEN}"]
        alike += ["True", "caf\u00e9", "cafe\u0301", "1_000", "1000", "9007199254740993", "9007199254740992"]
        write_inter(tmp_path / "tiny", "tiny", [(token, item) for token in alike for item in alike[:4]])
        with (tmp_path / "tiny" / "tiny.inter").open("a", encoding="utf-8") as stream:
            stream.writelines(f"7\t{token}\t99\n" for token in alike[4:])
        for entity in ("item", "user"):
            write = write_npy if memory_map else write_npz
            more = {"header": f"{entity}_id:token"} if memory_map else {}
            write(tmp_path / "tiny", f"tiny.{entity}.text", alike[::-2], **more)
        dataset = make_dataset(tmp_path)
        assert dataset.item_num == dataset.user_num == len(alike) + 1
        check_alignment(dataset, {"text": set(alike[::-2])})
        check_alignment(dataset, {"text": set(alike[::-2])}, "user")

    def test_with_a_benchmark_split(self, tiny: Path) -> None:
        having = with_items(tiny, text=[*ITEMS[3:], "other"])
        pairs = random_pairs()
        for part, rows in (("train", pairs[:30]), ("valid", pairs[30:40]), ("test", pairs[40:])):
            write_inter(tiny, f"tiny.{part}", rows)
        dataset = make_dataset(tiny.parent, benchmark_filename=["train", "valid", "test"])
        check_alignment(dataset, having)
        assert [len(part) for part in dataset.build()] == [30, 10, len(pairs) - 40]

    def test_with_item_and_user_files_that_add_to_the_vocabulary(self, tiny: Path) -> None:
        having = with_items(tiny, text=[*ITEMS, "never bought"])
        lines = [
            "item_id:token\tprice:float",
            *(f"{item}\t{k}" for k, item in enumerate([*ITEMS, "never bought", "x"])),
        ]
        (tiny / "tiny.item").write_text("\n".join(lines) + "\n")
        columns = {"inter": ["user_id", "item_id"], "item": ["item_id", "price"]}
        check_alignment(make_dataset(tiny.parent, load_col=columns), having)
        dropped = make_dataset(tiny.parent, load_col=columns, missing_feature="drop")
        check_alignment(dropped, having)
        assert "x" not in dropped.field2token_id["item_id"]

    def test_reviews(self, tiny: Path) -> None:
        pairs = random_pairs()
        reviewed = [*pairs[::2], ("u0", "nowhere"), ("nobody", "i0")]
        reviewed = [reviewed[k] for k in np.random.default_rng(3).permutation(len(reviewed))]
        np.savez(
            tiny / "tiny.inter.review.npz",
            user_id=[user for user, _ in reviewed],
            item_id=[item for _, item in reviewed],
            feature=vectors([f"{user} {item}" for user, item in reviewed]),
        )
        dataset = make_dataset(tiny.parent, user_inter_num_interval="[4,inf)")
        found = dataset.features.inter["review"]
        users = dataset.id2token("user_id", found.user)
        items = dataset.id2token("item_id", found.item)
        known = set(dataset.field2token_id["user_id"]), set(dataset.field2token_id["item_id"])
        expected = {pair for pair in reviewed if pair[0] in known[0] and pair[1] in known[1]}
        assert set(zip(users, items)) == expected
        assert 0 < len(found.user) == len(expected) < len(reviewed)
        for user, item, feature in zip(users, items, found.feature):
            assert np.array_equal(feature.numpy(), vector(f"{user} {item}"))


class TestSelection:
    def test_all_files_in_the_order_of_the_names(self, tiny: Path) -> None:
        with_items(tiny, text=ITEMS, audio=ITEMS, image=ITEMS)
        assert list(make_dataset(tiny.parent).features.item) == ["audio", "image", "text"]
        chosen = make_dataset(tiny.parent, modalities=["text", "audio"])
        assert list(chosen.features.item) == ["audio", "text"]

    def test_weight_zero_is_leaving_it_out(self, tiny: Path) -> None:
        with_items(tiny, text=ITEMS, audio=ITEMS[:9], image=ITEMS)
        zero = make_dataset(tiny.parent, modality_weight={"audio": 0, "text": 2.0}, missing_feature="drop")
        left_out = make_dataset(tiny.parent, modalities=["image", "text"], missing_feature="drop")
        assert list(zero.features.item) == list(left_out.features.item) == ["image", "text"]
        assert len(zero) == len(left_out) == len(random_pairs())  # nobody is dropped for a modality that is not used

    def test_unknown_modality_has_a_close_match(self, tiny: Path) -> None:
        with_items(tiny, text=ITEMS, image=ITEMS)
        with pytest.raises(ValueError, match=r"modalities: unknown modality 'imgae'. Did you mean 'image'"):
            make_dataset(tiny.parent, modalities=["imgae", "text"])
        with pytest.raises(ValueError, match=r"modality_weight: unknown modality 'texts'. Did you mean 'text'"):
            make_dataset(tiny.parent, modality_weight={"texts": 0.5})

    def test_no_feature_file_at_all(self, tiny: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"No feature file of data set 'tiny' in .*tiny.item.image.npz"):
            make_dataset(tiny.parent)

    def test_feature_path_and_the_packaged_files(self, tiny: Path, tmp_path: Path) -> None:
        with_items(tiny, text=ITEMS)
        (tmp_path / "elsewhere" / "tiny").mkdir(parents=True)
        write_npz(tmp_path / "elsewhere" / "tiny", "tiny.item.video", ITEMS)
        for path in ("elsewhere", "elsewhere/tiny"):
            assert list(make_dataset(tiny.parent, feature_path=str(tmp_path / path)).features.item) == ["video"]
        write_inter(tmp_path / "mm-toy", "mm-toy", [("a", "b"), ("a", "c")])
        write_npz(tmp_path / "mm-toy", "mm-toy.item.video", ["b"])
        assert list(make_dataset(tmp_path, "mm-toy").features.item) == ["video"]
        packaged = MultimodalDataset(make_config(Path("dataset"), "ml-100k"))  # RecBole has this one
        assert {"genre", "text"} <= set(packaged.features.item)

    def test_an_error_in_a_file_waits_until_the_features_are_asked_for(self, tiny: Path) -> None:
        write_npz(tiny, "tiny.item.text", ["nobody"])
        dataset = make_dataset(tiny.parent)
        with pytest.raises(ValueError, match="none of its 1 ids is among the 15 items"):
            _ = dataset.features

    def test_scale_warning_names_feature_norm_and_falls_silent_once_it_is_set(self, tiny: Path, caplog) -> None:
        write_npz(tiny, "tiny.item.text", ITEMS, feature=vectors(ITEMS).astype(np.float32) * 1e4)
        for norm, warned in (("none", True), ({"text": "l2"}, False), ("zscore", False)):
            caplog.clear()
            dataset = make_dataset(tiny.parent, feature_norm=norm)
            with caplog.at_level(logging.WARNING):
                _ = dataset.features
            assert ("item features [text] are badly scaled" in caplog.text) == warned
            assert ("feature_norm" in caplog.text) == warned

    def test_feature_dtype(self, tiny: Path) -> None:
        with_items(tiny, text=ITEMS)
        dataset = make_dataset(tiny.parent, feature_dtype="bfloat16")
        assert dataset.features.item["text"].feature.dtype == torch.bfloat16
        assert dataset.get_preload_weight("text").dtype == np.float32

    def test_a_config_without_our_options(self, tiny: Path) -> None:
        with_items(tiny, text=ITEMS)
        config = make_config(tiny.parent, "tiny")
        del config.final_config_dict["missing_feature"]
        with pytest.raises(ValueError, match="missing_feature: expected one of .*got None.*recbole_mm.register"):
            MultimodalDataset(config)


class TestDrop:
    def test_drops_before_k_core(self, tmp_path: Path, caplog) -> None:
        # u2 has two items only as long as i9, which has no features, is there.
        pairs = [("u1", "i1"), ("u1", "i2"), ("u2", "i1"), ("u2", "i9"), ("u3", "i1"), ("u3", "i2"), ("u3", "i9")]
        write_inter(tmp_path / "tiny", "tiny", pairs)
        with_items(tmp_path / "tiny", text=["i1", "i2"])
        with caplog.at_level(logging.INFO):
            dataset = make_dataset(tmp_path, missing_feature="drop", user_inter_num_interval="[2,inf)", state="INFO")
        assert sorted(dataset.field2token_id["user_id"]) == ["[PAD]", "u1", "u3"]
        assert sorted(dataset.field2token_id["item_id"]) == ["[PAD]", "i1", "i2"]
        assert "drop - 2 of 7 rows of inter_feat are dropped, of 1 items without text features" in caplog.text

    def test_only_modalities_in_use_count(self, tiny: Path) -> None:
        with_items(tiny, text=ITEMS, image=ITEMS[:5])
        assert len(make_dataset(tiny.parent, missing_feature="drop", modalities=["text"])) == len(random_pairs())
        assert make_dataset(tiny.parent, missing_feature="drop").item_num == 6

    def test_missing_ids_are_recboles_business(self, tmp_path: Path, caplog) -> None:
        write_inter(tmp_path / "tiny", "tiny", [("u1", "i1"), ("", "i1"), ("u2", "i2"), ("u1", "i3")])
        with_items(tmp_path / "tiny", text=["i1", "i3"])
        with caplog.at_level(logging.WARNING):
            dataset = make_dataset(tmp_path, missing_feature="drop", state="WARNING")
        assert "line [3], user_id do not exist" in caplog.text
        assert list(dataset.field2id_token["item_id"]) == ["[PAD]", "i1", "i3"]

    def test_nothing_left(self, tiny: Path) -> None:
        with_items(tiny, text=["1", "2"])
        with pytest.raises(ValueError, match=r"drop leaves no interaction.*tiny.item.text.npz.*\['1', '2'\]"):
            make_dataset(tiny.parent, missing_feature="drop")

    def test_a_fixed_split_is_not_changed(self, tiny: Path) -> None:
        for part in ("train", "valid", "test"):
            write_inter(tiny, f"tiny.{part}", [("u1", "i1"), ("u2", "i2")])
        with_items(tiny, text=["i1"])
        options = {"benchmark_filename": ["train", "valid", "test"], "missing_feature": "drop"}
        with pytest.raises(ValueError, match=r"drop would change the split .* 1 items have no row in .*'i2'"):
            make_dataset(tiny.parent, **options)
        with_items(tiny, text=["i2", "i1"])
        assert len(make_dataset(tiny.parent, **options)) == 6


class TestSharingAndPickling:
    def test_the_parts_of_a_split_share_what_was_read(self, tiny: Path) -> None:
        with_items(tiny, text=ITEMS)
        for sequential in (False, True):
            dataset = make_dataset(tiny.parent, sequential=sequential)
            parts = dataset.build()
            store = parts[0].features
            assert all(part.features is store for part in (*parts, dataset))

    def test_a_pickle_holds_no_features_and_reads_them_again(self, tiny: Path) -> None:
        write_npz(tiny, "tiny.item.text", ITEMS, feature=np.random.default_rng(0).normal(size=(15, 4000)))
        dataset = make_dataset(tiny.parent)
        before = len(pickle.dumps(dataset))
        feature = dataset.features.item["text"].feature
        dumped = pickle.dumps(dataset)
        assert len(dumped) == before < feature.numel()
        again = pickle.loads(dumped)
        assert torch.equal(again.features.item["text"].feature, feature)
        assert again.features.item["text"].feature is not feature
        assert torch.equal(copy.deepcopy(dataset).features.item["text"].feature, feature)

    def test_a_saved_data_set_is_not_served_to_other_options(self, tiny: Path, monkeypatch) -> None:
        import recbole.data.dataset as module

        monkeypatch.setattr(module, "BPRDataset", MultimodalDataset, raising=False)
        with_items(tiny, text=ITEMS[:9])
        saved = create_dataset(make_config(tiny.parent, "tiny", save_dataset=True))
        assert (tiny.parent / "saved" / "tiny-MultimodalDataset.pth").is_file()
        loaded = create_dataset(make_config(tiny.parent, "tiny"))
        assert loaded.item_num == saved.item_num == 16
        assert torch.equal(loaded.features.item["text"].feature, saved.features.item["text"].feature)
        assert create_dataset(make_config(tiny.parent, "tiny", missing_feature="drop")).item_num == 10

    def test_saved_loaders_read_the_features_again(self, tiny: Path) -> None:
        having = with_items(tiny, text=ITEMS)
        config = make_config(tiny.parent, "tiny", save_dataloaders=True)
        train, _, _ = data_preparation(config, MultimodalDataset(config))
        loaded, _, _ = data_preparation(config, MultimodalDataset(config))
        assert loaded is not train
        check_alignment(loaded._dataset, having)


class TestAsRecBole:
    """What RecBole would have given without us, to the last bit."""

    @pytest.mark.parametrize("sequential", [False, True])
    def test_the_split_is_that_of_the_plain_data_set(self, tiny: Path, sequential: bool) -> None:
        with_items(tiny, text=ITEMS)
        plain_class, our_class = (
            (SequentialDataset, MultimodalSequentialDataset) if sequential else (Dataset, MultimodalDataset)
        )
        parts = []
        for cls in (plain_class, our_class):
            config = make_config(tiny.parent, "tiny", sequential)
            torch.manual_seed(1)
            np.random.seed(1)
            random.seed(1)
            dataset = cls(config)
            if cls is our_class:
                _ = dataset.features
            parts.append([part.inter_feat.interaction for part in dataset.build()])
            parts[-1].append({"state": torch.tensor([torch.rand(()).item(), np.random.rand(), random.random()])})
        for plain, ours in zip(*parts):
            assert plain.keys() == ours.keys()
            assert all(torch.equal(plain[field], ours[field]) for field in plain)

    @pytest.mark.parametrize("index", [
        np.array([3, 1, 3]), np.array([2], dtype=np.int32), np.array([], dtype=np.int64), torch.tensor([4, 0]),
        torch.arange(20) % 3 == 0, np.arange(20) % 2 == 0, [1, 2], slice(2, 5), 3, np.arange(4)[::-1],
        np.array([2, 1], dtype=">i8"),
    ], ids=str)  # fmt: skip
    def test_rows_are_those_of_the_plain_data_set(self, tiny: Path, index) -> None:
        with_items(tiny, text=ITEMS)
        for entity, tokens in (("item", ITEMS), ("user", USERS)):
            lines = [f"{entity}_id:token\t{entity}_size:float", *(f"{token}\t{k}" for k, token in enumerate(tokens))]
            (tiny / f"tiny.{entity}").write_text("\n".join(lines) + "\n")
        columns = {"inter": ["user_id", "item_id"], "item": "*", "user": "*"}
        config = make_config(tiny.parent, "tiny", load_col=columns)
        found = []
        for cls in (Dataset, MultimodalDataset):
            dataset = cls(config)
            dataset._change_feat_format()
            dataset.inter_feat = dataset.inter_feat[:20]
            found.append([dataset[index].interaction, dataset.__getitem__(index, join=False).interaction])
        for plain, ours in zip(*found):
            assert list(plain) == list(ours)
            for field in plain:
                assert torch.equal(plain[field], ours[field])
                assert plain[field].dtype == ours[field].dtype
        assert "user_size" in found[1][0] and "user_size" not in found[1][1]

    def test_training_batches_are_the_same(self, tiny: Path) -> None:
        with_items(tiny, text=ITEMS)
        batches = []
        for cls in (Dataset, MultimodalDataset):
            config = make_config(tiny.parent, "tiny", train_batch_size=16)
            torch.manual_seed(3)
            np.random.seed(3)
            train, valid, _ = data_preparation(config, cls(config))
            batches.append([*train, *(batch[0] for batch in valid)])
        assert len(batches[0]) == len(batches[1]) > 3
        for plain, ours in zip(*batches):
            assert isinstance(ours, Interaction)
            assert all(torch.equal(plain[field], ours[field]) for field in plain.interaction)

    def test_preloaded_weights(self, tiny: Path) -> None:
        with_items(tiny, text=ITEMS[:4], size=ITEMS)
        write_npz(tiny, "tiny.user.profile", USERS)
        lines = ["iid:token\tcodes:float_seq", *(f"{item}\t{k} 1" for k, item in enumerate(ITEMS))]
        (tiny / "tiny.extra").write_text("\n".join(lines) + "\n")
        dataset = make_dataset(
            tiny.parent, additional_feat_suffix=["extra"], alias_of_item_id=["iid"], preload_weight={"iid": "codes"},
            load_col={"inter": ["user_id", "item_id"], "extra": ["iid", "codes"]},
        )  # fmt: skip
        text = dataset.get_preload_weight("text")
        assert isinstance(text, np.ndarray) and text.shape == (16, 5)
        assert np.array_equal(text[dataset.token2id("item_id", "i2")], vector("i2"))
        assert np.array_equal(dataset.get_preload_weight("profile"), dataset.features.user["profile"].feature.numpy())
        assert dataset.get_preload_weight("iid")[dataset.token2id("item_id", "i7")].tolist() == [7, 1]
        with pytest.raises(
            ValueError, match="'texts' is neither in preload_weight nor a modality in use.*profile, size, text"
        ):
            dataset.get_preload_weight("texts")
