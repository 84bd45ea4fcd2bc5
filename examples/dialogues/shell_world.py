"""A Linux machine for the shell helper: some files in memory, a handful of programs, pipes and redirections.

It is safe because nothing of it is real: no process is started and no file of yours is touched.
"""

import fnmatch
import itertools
import json
import posixpath
import random
import re
import shlex
from collections.abc import Mapping
from typing import Any

WORDS = [
    "budget",
    "timeout",
    "garden",
    "invoice",
    "ready",
    "error",
    "kettle",
    "draft",
    "meeting",
    "river",
    "warning",
    "ok",
    "lamp",
    "report",
    "friday",
]
FOLDERS = ("notes", "logs", "letters", "photos", "projects")
ENDINGS = {"notes": ".txt", "logs": ".log", "letters": ".txt", "photos": ".jpg", "projects": ".py"}
HOME = "/home/ana"


class Failed(Exception):
    """A program that prints an error and ends."""


class Shell:
    """One machine. facts: JSON, {path: text of the file, or null for a folder}."""

    def __init__(self, facts: str) -> None:
        self.files: dict[str, str | None] = json.loads(facts)
        self.here = HOME

    @staticmethod
    def draw(seed: int, task: str) -> str:
        """A home directory; every path that the task names is there, unless the task is to make it."""
        drawn = random.Random(seed)
        files: dict[str, str | None] = {"/": None, "/home": None, HOME: None}
        for folder in drawn.sample(FOLDERS, 3):
            files[f"{HOME}/{folder}"] = None
            for word in drawn.sample(WORDS, drawn.randint(1, 4)):
                files[f"{HOME}/{folder}/{word}{ENDINGS[folder]}"] = some_text(drawn)
        for path in re.findall(r"/home/[\w./-]*\w", task):
            if re.search(rf"(?i)\b(make|create|write|new)\b[^.]*{re.escape(path)}", task):
                continue
            for parent in parents(path):
                files.setdefault(parent, None)
            files.setdefault(path, some_text(drawn) if "." in path.rsplit("/", 1)[1] else None)
            if files[path] is None and not any(other.startswith(path + "/") for other in files):
                for word in drawn.sample(WORDS, 3):
                    files[f"{path}/{word}.{drawn.choice(('txt', 'log'))}"] = some_text(drawn)
        return json.dumps(files, sort_keys=True)

    def act(self, action: str, tool: str, arguments: Mapping[str, Any]) -> str:
        """Run the command after "Run:"; returns what it prints."""
        found = re.search(r"^Run:[ \t]*(.+)", action, re.MULTILINE)
        if not found:
            return "no command: write Run: and a command"
        printed = ""
        try:
            for command in split_outside_quotes(r"&&|;", found[1].strip().strip("`")):
                printed += self.pipe(command)
        except Failed as failed:
            printed += f"{failed}\n"
        except (ValueError, IndexError) as error:
            printed += f"bash: syntax error: {error}\n"
        return printed.strip("\n") or "(no output)"

    def pipe(self, command: str) -> str:
        """Programs joined by |; the last may write into a file."""
        command, silent = re.subn(r"\s*(2>\s*/dev/null|2>&1)", "", command)
        into = re.search(r"\s*(>>?)\s*([^\s>|\"']+)\s*$", command)
        text = ""
        for one in split_outside_quotes(r"\|", command[: into.start()] if into else command):
            words = shlex.split(one.replace("<", " "))
            if not words:
                raise ValueError("an empty command")
            program = getattr(self, f"run_{words[0]}", None)
            if program is None:
                raise Failed(f"bash: {words[0]}: command not found")
            try:
                text = program(self.globbed(words[1:]) if words[0] not in ("find", "grep", "echo") else words[1:], text)
            except Failed:
                if not silent:
                    raise
                text = ""
            if "<" in one and words[0] == "wc":
                text = text.rsplit(" ", 1)[0] + "\n"
        if into:
            path = self.at(into[2])
            self.folder_of(path, "bash")
            self.files[path] = (self.files.get(path) or "") * (into[1] == ">>") + text
            return ""
        return text

    def at(self, path: str) -> str:
        path = path.replace("~", HOME, 1) if path.startswith("~") else path
        return posixpath.normpath(posixpath.join(self.here, path))

    def globbed(self, words: list[str]) -> list[str]:
        found = []
        for word in words:
            hits = sorted(fnmatch.filter(self.files, self.at(word))) if "*" in word or "?" in word else []
            found += hits or [word]
        return found

    def children(self, path: str) -> list[str]:
        return sorted(other for other in self.files if other != path and posixpath.dirname(other) == path)

    def below(self, path: str) -> list[str]:
        return sorted(other for other in self.files if other == path or other.startswith(path.rstrip("/") + "/"))

    def folder_of(self, path: str, program: str) -> None:
        if self.files.get(posixpath.dirname(path), "") is not None:
            raise Failed(f"{program}: {path}: No such file or directory")

    def texts(self, program: str, paths: list[str], text: str) -> list[tuple[str, str]]:
        """(name, content) of the files named, or what came through the pipe."""
        found = []
        for path in paths:
            if self.at(path) not in self.files:
                raise Failed(f"{program}: {path}: No such file or directory")
            content = self.files[self.at(path)]
            if content is None:
                raise Failed(f"{program}: {path}: Is a directory")
            found.append((path, content))
        return found or [("", text)]

    def run_pwd(self, words: list[str], text: str) -> str:
        return self.here + "\n"

    def run_cd(self, words: list[str], text: str) -> str:
        path = self.at(words[0] if words else HOME)
        if self.files.get(path, "") is not None:
            raise Failed(f"bash: cd: {words[0]}: No such file or directory")
        self.here = path
        return ""

    def run_ls(self, words: list[str], text: str) -> str:
        flags, paths = split_flags(words)
        printed = []
        for path in paths or ["."]:
            place = self.at(path)
            if place not in self.files:
                raise Failed(f"ls: cannot access '{path}': No such file or directory")
            if self.files[place] is None:
                names = [posixpath.basename(child) for child in self.children(place)]
                printed += ([f"{path}:"] if len(paths) > 1 else []) + names
            else:
                printed.append(path)
        if "l" in flags:
            printed = [f"-rw-r--r-- 1 ana ana {name}" for name in printed]
        return "".join(f"{line}\n" for line in printed)

    def run_cat(self, words: list[str], text: str) -> str:
        return "".join(content for _, content in self.texts("cat", split_flags(words)[1], text))

    def run_head(self, words: list[str], text: str) -> str:
        count, paths = counted(words)
        return "".join(lines(c, slice(0, count)) for _, c in self.texts("head", paths, text))

    def run_tail(self, words: list[str], text: str) -> str:
        count, paths = counted(words)
        return "".join(lines(c, slice(-count, None)) for _, c in self.texts("tail", paths, text))

    def run_wc(self, words: list[str], text: str) -> str:
        flags, paths = split_flags(words)
        printed = []
        for name, content in self.texts("wc", paths, text):
            numbers = {"l": content.count("\n"), "w": len(content.split()), "c": len(content)}
            printed.append(
                " ".join(str(numbers[flag]) for flag in (flags or "lwc") if flag in numbers) + f" {name}".rstrip()
            )
        return "".join(f"{line}\n" for line in printed)

    def run_sort(self, words: list[str], text: str) -> str:
        flags, paths = split_flags(words)
        rows = "".join(content for _, content in self.texts("sort", paths, text)).splitlines()
        rows = sorted(set(rows) if "u" in flags else rows, reverse="r" in flags)
        return "".join(f"{row}\n" for row in rows)

    def run_uniq(self, words: list[str], text: str) -> str:
        flags, paths = split_flags(words)
        rows = "".join(content for _, content in self.texts("uniq", paths, text)).splitlines()
        runs: list[list[Any]] = []
        for row in rows:
            if runs and runs[-1][1] == row:
                runs[-1][0] += 1
            else:
                runs.append([1, row])
        return "".join(f"{count} {row}\n" if "c" in flags else f"{row}\n" for count, row in runs)

    def run_echo(self, words: list[str], text: str) -> str:
        return " ".join(word for word in words if word not in ("-e", "-n")) + "\n"

    def run_grep(self, words: list[str], text: str) -> str:
        flags, rest = split_flags(words)
        if not rest:
            raise Failed("grep: missing operand")
        try:
            pattern = re.compile(rest[0].replace(r"\|", "|"), re.IGNORECASE if "i" in flags else 0)
        except re.error:
            raise Failed("grep: Unmatched [, [^, [:, [., or [=") from None
        paths = self.globbed(rest[1:])
        if "r" in flags or "R" in flags:
            paths = [p for path in paths or ["."] for p in self.below(self.at(path)) if self.files[p] is not None]
        named = self.texts("grep", paths, text)
        printed = []
        for name, content in named:
            hits = [row for row in content.splitlines() if bool(pattern.search(row)) != ("v" in flags)]
            if "l" in flags:
                printed += [name] * bool(hits)
            elif "c" in flags:
                printed.append(f"{name}:{len(hits)}" if len(named) > 1 else str(len(hits)))
            else:
                printed += [f"{name}:{row}" if len(named) > 1 else row for row in hits]
        return "".join(f"{line}\n" for line in printed)

    def run_find(self, words: list[str], text: str) -> str:
        path = words[0] if words and not words[0].startswith("-") else "."
        place = self.at(path)
        if place not in self.files:
            raise Failed(f"find: '{path}': No such file or directory")
        options = dict(itertools.pairwise(words))
        found = []
        for one in self.below(place):
            kind = "d" if self.files[one] is None else "f"
            name = posixpath.basename(one)
            if options.get("-type", kind) == kind and fnmatch.fnmatchcase(name, options.get("-name", "*")):
                found.append(one)
        return "".join(f"{one}\n" for one in found)

    def run_mkdir(self, words: list[str], text: str) -> str:
        flags, paths = split_flags(words)
        for path in paths:
            place = self.at(path)
            if place in self.files and "p" not in flags:
                raise Failed(f"mkdir: cannot create directory '{path}': File exists")
            if "p" in flags:
                for parent in parents(place):
                    self.files.setdefault(parent, None)
            self.folder_of(place, "mkdir")
            self.files[place] = None
        return ""

    def run_touch(self, words: list[str], text: str) -> str:
        for path in words:
            self.folder_of(self.at(path), "touch")
            self.files.setdefault(self.at(path), "")
        return ""

    def run_rm(self, words: list[str], text: str) -> str:
        flags, paths = split_flags(words)
        for path in paths:
            place = self.at(path)
            if place not in self.files:
                raise Failed(f"rm: cannot remove '{path}': No such file or directory")
            if self.files[place] is None and "r" not in flags:
                raise Failed(f"rm: cannot remove '{path}': Is a directory")
            for one in self.below(place):
                del self.files[one]
        return ""

    def run_mv(self, words: list[str], text: str) -> str:
        return self.copied("mv", words, move=True)

    def run_cp(self, words: list[str], text: str) -> str:
        return self.copied("cp", words, move=False)

    def copied(self, program: str, words: list[str], *, move: bool) -> str:
        *sources, target = split_flags(words)[1]
        place = self.at(target)
        for source in sources:
            origin = self.at(source)
            if origin not in self.files:
                raise Failed(f"{program}: cannot stat '{source}': No such file or directory")
            into = posixpath.join(place, posixpath.basename(origin)) if self.files.get(place, "") is None else place
            self.folder_of(into, program)
            for one in self.below(origin):
                self.files[into + one[len(origin) :]] = self.files[one]
                if move:
                    del self.files[one]
        return ""


def some_text(drawn: random.Random) -> str:
    return "".join(" ".join(drawn.choices(WORDS, k=4)) + "\n" for _ in range(drawn.randint(1, 6)))


def parents(path: str) -> list[str]:
    parts = path.strip("/").split("/")[:-1]
    return ["/" + "/".join(parts[: n + 1]) for n in range(len(parts))]


def split_flags(words: list[str]) -> tuple[str, list[str]]:
    """Single-letter flags, and everything else."""
    flags = "".join(word[1:] for word in words if re.fullmatch(r"-[a-zA-Z]+", word))
    return flags, [word for word in words if not re.fullmatch(r"-[a-zA-Z]+", word)]


def counted(words: list[str]) -> tuple[int, list[str]]:
    """The number after -n (or as -5), 10 without one; and the paths."""
    text = " ".join(words)
    found = re.search(r"(?:^|\s)-(?:n\s*)?(\d+)(?=\s|$)", text)
    rest = text[: found.start()] + text[found.end() :] if found else text
    return int(found[1]) if found else 10, rest.split()


def lines(text: str, part: slice) -> str:
    return "".join(text.splitlines(keepends=True)[part])


def split_outside_quotes(mark: str, command: str) -> list[str]:
    """Split at a pattern wherever an even number of quotes follows."""
    return re.split(rf"""\s*(?:{mark})\s*(?=(?:[^"']|"[^"]*"|'[^']*')*$)""", command)
