"""Hostile visitors of the web pages, for the campaign."""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).


def attack_pages(table, world, folder, rng) -> None:
    pass
