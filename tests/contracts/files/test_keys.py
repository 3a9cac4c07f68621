"""Secrets that others can read are not used, and the list of passes is whole at any moment."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from contracts.errors import ConfigError, ReleaseRejected
from contracts.files.keys import KeyStore, check_name, described
from contracts.key_rotation import SERVER_PURPOSE, NextServerKey
from contracts.sockets import Pass
from contracts.sockets.curve import new_pair


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    store = KeyStore(tmp_path / "run" / "keys")
    store.own(make=True)
    return store


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def make_pass(name: str, **given) -> Pass:
    return Pass(name=name, key=new_pair().public, enrolled_unix_s=1.0, **given)


def test_only_the_owner_can_read_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = KeyStore(tmp_path / "keys")
        store.own(make=True)
        store.add(make_pass("arm"))
        store.next(make=True)
    finally:
        os.umask(before)
    assert mode(store.folder) == 0o700
    assert {mode(path) for path in store.folder.iterdir()} == {0o600}


@pytest.mark.parametrize("name", ["curve.key", "passes.json"])
@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620])
def test_a_file_that_others_may_read_or_write_is_refused(
    store: KeyStore, name: str, bits: int
) -> None:
    store.add(make_pass("arm"))
    (store.folder / name).chmod(bits)
    read = store.own if name == "curve.key" else store.passes
    with pytest.raises(ConfigError, match="chmod 600"):
        read()


def test_a_folder_that_others_may_enter_is_refused(store: KeyStore) -> None:
    store.folder.chmod(0o750)
    for use in (store.own, lambda: store.add(make_pass("arm"))):
        with pytest.raises(ConfigError, match="chmod 700"):
            use()


def test_a_link_in_place_of_a_secret_is_refused(store: KeyStore, tmp_path: Path) -> None:
    path = store.folder / "curve.key"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError):
        store.own()


def test_a_broken_key_is_named_but_never_shown(store: KeyStore) -> None:
    path = store.folder / "curve.key"
    secret = path.read_text()
    path.write_text(secret[:-1])
    with pytest.raises(ConfigError, match=r"curve\.key") as error:
        store.own()
    assert secret[:10] not in str(error.value)


def test_two_that_change_the_list_at_once_lose_nothing(store: KeyStore) -> None:
    names = [f"arm-{n}" for n in range(24)]
    stores = [KeyStore(store.folder) for _ in range(4)]
    threads = [
        threading.Thread(target=lambda n=n: [stores[n].add(make_pass(i)) for i in names[n::4]])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.name for one in store.passes()) == sorted(names)


def test_enrolling_again_replaces_and_revoking_keeps_a_record(store: KeyStore) -> None:
    first, second = make_pass("arm"), make_pass("arm")
    store.add(first)
    store.add(second)
    assert store.passes() == (second,)
    assert store.revoke("arm", 5.0) == 1 and store.revoke("arm", 6.0) == 0
    assert store.allow_list().problem(second.key, 7.0) == "revoked"
    assert store.passes()[0].revoked_unix_s == 5.0
    store.add(make_pass("arm"))
    assert [one.problem(9.0) for one in store.passes()] == [""]


def test_rotating_keeps_the_old_key_until_the_new_one_is_used(store: KeyStore) -> None:
    old = make_pass("arm")
    store.add(old)
    new = make_pass("arm", replaces=old.key)
    store.add(new)
    assert {one.key for one in store.passes()} == {old.key, new.key}
    store.settle(new.key)
    assert [(one.key, one.replaces) for one in store.passes()] == [(new.key, "")]


def test_the_next_pair_survives_until_it_is_adopted(store: KeyStore) -> None:
    before, new = store.own(), store.next(make=True)
    assert store.next() == store.next(make=True) == new != before
    assert store.adopt_next() == store.own() == new and store.next() is None


def following(old: Pass, number: int, new: str = "") -> NextServerKey:
    return NextServerKey(
        purpose=SERVER_PURPOSE,
        trainer=old.name,
        number=number,
        old=old.key,
        new=new or new_pair().public,
        created_unix_s=1.0,
    )


def test_a_next_key_waits_beside_the_one_it_follows_until_it_is_answered(store: KeyStore) -> None:
    lab, other = make_pass("lab"), make_pass("other")
    store.add(lab)
    store.add(other)
    first, second = following(lab, 5), following(lab, 6)
    store.expect(first, 9.0)
    stamp = store.stamp()
    store.expect(first, 9.0)
    assert store.stamp() == stamp, "the same once more writes nothing"
    store.expect(second, 9.0)
    for old in (first, following(lab, 6)):
        with pytest.raises(ReleaseRejected, match="older than one heard before") as error:
            store.expect(old, 9.0)
        assert error.value.reason == "replay"
    kept = next(one for one in store.passes() if one.name == "lab")
    assert (kept.key, kept.next_key, kept.next_number) == (lab.key, second.new, 6)
    store.take_next(first.new)
    assert kept in store.passes(), "nobody answered to that one"
    store.take_next(second.new)
    (taken,) = [one for one in store.passes() if one.name == "lab"]
    assert (taken.key, taken.next_key, taken.next_number) == (second.new, "", 0)
    assert other in store.passes()


def test_a_next_key_that_is_none_or_somebodys_or_follows_nobodys_is_not_kept(
    store: KeyStore,
) -> None:
    lab, gone = make_pass("lab"), make_pass("gone")
    store.add(lab)
    store.add(gone)
    store.revoke("gone", 2.0)
    before = store.passes()
    for said, reason in (
        (following(lab, 1, "z" * 39), "key"),
        (following(lab, 1, gone.key), "key"),
        (following(lab, 1, lab.key), "key"),
        (following(gone, 1), "foreign"),
        (following(make_pass("nobody"), 1), "foreign"),
    ):
        with pytest.raises(ReleaseRejected) as error:
            store.expect(said, 9.0)
        assert error.value.reason == reason
    assert store.passes() == before


def test_who_knows_only_a_former_key_is_listed_as_such(store: KeyStore) -> None:
    new = store.next(make=True)
    assert new is not None
    for name in ("arm", "leg"):
        store.add(make_pass(name, holds=store.own().public))
    assert store.note_held("arm", new.public) and not store.note_held("arm", new.public)
    assert "former key" not in "\n".join(described(store, 9.0))
    store.adopt_next()
    lines = {line.partition(":")[0]: line for line in described(store, 9.0)}
    assert "former key of this end: enroll it again" in lines["leg"]
    assert "former key" not in lines["arm"] and new.secret not in str(lines)


def test_what_is_listed_holds_no_secret(store: KeyStore) -> None:
    store.add(make_pass("arm", expires_unix_s=9e8))
    said = "\n".join(described(store, 1e9))
    assert "arm" in said and "expired" in said and store.own().secret not in said


@pytest.mark.parametrize("name", ["", "a/b", "x" * 65, "a\nb", "nul\0"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="not a name"):
        check_name(name)
