"""Unpacks the members of a wheel or .tgz that lie under given prefixes: ARCHIVE INTO PREFIX..."""
import os
import shutil
import sys
import tarfile
import zipfile

archive, into, *prefixes = sys.argv[1:]
into = os.path.realpath(into)
parent = os.getppid()


def wanted(name):
    return not name.endswith("/") and any(name.startswith(prefix) for prefix in prefixes)


def write(name, source, mode):
    path = os.path.realpath(os.path.join(into, name))
    if os.path.commonpath([into, path]) != into:
        sys.exit(f"{archive}: member {name} leads out of the folder")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with source, open(path, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    if mode & 0o100:
        os.chmod(path, 0o755)


def members():
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            for info in filter(lambda info: wanted(info.filename), file.infolist()):
                yield info.filename, file.open(info), info.external_attr >> 16, info.file_size
    else:
        with tarfile.open(archive) as file:
            for info in filter(lambda info: info.isfile() and wanted(info.name), file):
                yield info.name, file.extractfile(info), info.mode, info.size


count = written = 0
for name, source, mode, size in members():
    if os.getppid() != parent:
        sys.exit("set-up is gone")  # its next attempt must have the folder to itself
    write(name, source, mode)
    count += 1
    written += size
    if sys.stderr.isatty():
        print(f"\r  {count} files, {written >> 20} MiB", end="", file=sys.stderr, flush=True)
if sys.stderr.isatty():
    print("\r\x1b[K", end="", file=sys.stderr)
if count == 0:
    sys.exit(f"{archive}: nothing lies under {', '.join(prefixes)}")
