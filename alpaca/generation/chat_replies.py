"""A chat model's reply as the text that a completions model writes behind the prompt.

The prompt ends in the label of the next task. A chat model may repeat it, say something before it, put the list into a
code fence, set labels in bold or as headings, number from 1 or not at all, or leave out the separators.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import re

# "**4. Instruction:**", "4. **Instruction**:", "### 4. Instruction:", "- Instruction:", at the beginning of a line.
LABEL = re.compile(
    r"^[ \t]*(?:[-*+#>]+[ \t]+)?[*_]{0,3}(?:(\d+)[.)])?[ \t]*[*_]{0,3}(Instruction|Input|Output)"
    r"[*_]{0,3}[ \t]*:[*_]{0,3}",
    re.IGNORECASE | re.MULTILINE,
)
# A last line that belongs to no task: a rule, a fence's end, "###", "### Task 5", "**5.**".
SEPARATOR = re.compile(
    r"(?:^|\n)[ \t]*(?:```|-{3,}|\*{3,}|#{2,}|#{1,6}[ \t]+(?:Task[ \t]*)?\d+[.):]?|\*\*(?:Task[ \t]*)?\d+[.):]?\*\*)$",
    re.IGNORECASE,
)


def strip_repeated_label(text: str, number: int) -> str:
    """A chat reply without its own `{number}. Instruction:`, and whatever it says before, where it begins so. Of a code
    fence that begins there, the end goes too.

    >>> strip_repeated_label("Sure!\\n\\n4. Instruction: Sort.\\n4. Input: 2 1", 4)
    ' Sort.\\n4. Input: 2 1'
    """
    first_label = re.search(rf"(?<!\d){number}\.\s+(Instruction|Input|Output):", text)
    if not first_label or first_label[1] != "Instruction":
        return text
    before, rest = text[: first_label.start()], text[first_label.end() :]
    return rest.rstrip().removesuffix("```") if before.count("```") % 2 else rest


def as_completion(text: str, first_number: int) -> str:
    """The reply with plain labels, numbered from first_number in the order of its instructions, and separators.

    What stands before the first instruction goes, as does a code fence around the list.

    >>> as_completion("Here:\\n```\\n**1. Instruction:** Sort.\\n**1. Input:** 2 1\\n**1. Output:** 1 2\\n```", 4)
    ' Sort.\\n4. Input: 2 1\\n4. Output: 1 2\\n'
    """
    labels = list(LABEL.finditer(text))
    if any(label[1] for label in labels):  # then one without a number is text
        labels = [label for label in labels if label[1]]
    if not labels:
        return text
    parts, number = [], first_number - 1
    if labels[0][2].capitalize() != "Instruction":  # it goes on behind the label in the prompt
        parts, number = [_part(re.sub(r"^\s*```.*\n", "", text[: labels[0].start()]))], first_number
    ends = [label.start() for label in labels[1:]] + [len(text)]
    for label, end in zip(labels, ends, strict=True):
        name = label[2].capitalize()
        number += name == "Instruction"
        separator = "###\n" if name == "Instruction" else ""
        parts.append(f"{separator}{number}. {name}:{_part(text[label.end() : end])}")
    return "".join(parts).removeprefix(f"###\n{first_number}. Instruction:")


def _part(text: str) -> str:
    """The text of a part, without what separates tasks behind it. A fence that began within the part is its own."""
    text = text.rstrip()
    while (found := SEPARATOR.search(text)) and ("```" not in found[0] or text.count("```") % 2):
        text = text[: found.start()].rstrip()
    return text + "\n"
