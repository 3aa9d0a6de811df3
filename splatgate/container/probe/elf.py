"""Reads ELF files and the fat binaries of GPU code in them, by their headers.

Part of the probe: runs in the subject, with the standard library alone.
"""

import glob
import mmap
import os
import struct

ELF_MACHINES = {0x3E: "x86_64", 0xB7: "aarch64", 0x03: "i386", 0x28: "arm"}
#: Magic number of a fat binary inside section .nv_fatbin (fatbinary_section.h of the CUDA toolkit).
FATBIN_MAGIC = 0xBA55ED50
PTX, CUBIN = 1, 2
#: Section type of the dynamic table, and its tags (ELF specification, figure 2-10).
SHT_DYNAMIC, DT_NEEDED = 6, 1
#: Where the loader looks by itself, beside what /etc/ld.so.conf names.
LOADED = ("/lib", "/usr/lib", "/lib64", "/usr/lib64", "/usr/local/lib")
#: Libraries of the host's driver, which the NVIDIA container runtime mounts.
DRIVER = ("libcuda.so", "libnvidia-", "libnvcuvid.so", "libnvoptix.so", "libcudadebugger.so")


def sections(data):
    """(name, type, offset, size, link) of each section of an ELF64 file; none of any other."""
    if data[:4] != b"\x7fELF" or len(data) < 64 or data[4] != 2:
        return []
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    if not table or size < 64 or names >= count or table + size * count > len(data):
        return []
    heads = [struct.unpack_from("<IIQQQQI", data, table + size * n) for n in range(count)]
    strings = heads[names][4]
    found = []
    for name, kind, _, _, offset, length, link in heads:
        end = data.find(b"\0", strings + name, strings + name + 64)
        found.append((data[strings + name : end], kind, offset, length, link))
    return found


def machine_of(data):
    """Machine of an ELF file, or None for another file."""
    if data[:4] != b"\x7fELF" or len(data) < 20:
        return None
    return ELF_MACHINES.get(struct.unpack_from("<H", data, 18)[0], "unknown")


def elf_section(data, name):
    """Machine of an ELF64 file and the bytes (offset, size) of one section, or None."""
    at = next(((o, n) for found, _, o, n, _ in sections(data) if found == name), None)
    return machine_of(data), at


def needed(data):
    """Names of the libraries that a shared object is linked against (DT_NEEDED)."""
    every = sections(data)
    found = []
    for _, kind, offset, size, link in every:
        if kind != SHT_DYNAMIC or link >= len(every):
            continue
        strings = every[link][2]
        for at in range(offset, min(offset + size, len(data) - 15), 16):
            tag, value = struct.unpack_from("<QQ", data, at)
            if tag == DT_NEEDED:
                end = data.find(b"\0", strings + value)
                found.append(data[strings + value : end].decode("utf-8", "replace"))
    return found


def fatbin_architectures(data, offset, size):
    """Architectures of the cubins and of the PTX in a .nv_fatbin section, by their headers
    alone.
    """
    cubins, ptx = set(), set()
    at, end = offset, offset + size
    while at + 16 <= end:
        magic, _, header, length = struct.unpack_from("<IHHQ", data, at)
        if magic != FATBIN_MAGIC:
            at += 8
            continue
        entry, stop = at + header, at + header + length
        while entry + 32 <= stop:
            kind, _, entry_header, entry_size = struct.unpack_from("<HHIQ", data, entry)
            (arch,) = struct.unpack_from("<I", data, entry + 28)
            if kind == CUBIN:
                cubins.add(arch)
            elif kind == PTX:
                ptx.add(arch)
            if entry_header + entry_size == 0:
                break
            entry += entry_header + entry_size
        at = (stop + 7) // 8 * 8
    return sorted(cubins), sorted(ptx)


def loader_folders():
    """Folders in which the loader looks for libraries."""
    folders = list(LOADED) + [f for f in os.environ.get("LD_LIBRARY_PATH", "").split(":") if f]
    for name in ["/etc/ld.so.conf", *sorted(glob.glob("/etc/ld.so.conf.d/*"))]:
        try:
            with open(name) as file:
                folders += [x.strip() for x in file if x.startswith("/")]
        except (OSError, UnicodeDecodeError):
            continue
    return folders + glob.glob("/lib/*-linux-*") + glob.glob("/usr/lib/*-linux-*")


def libraries(roots):
    """Every shared object of Python's folders: those with GPU code, those for another machine, and
    what the loader will miss.

    NVIDIA's own packages ship code for every GPU and plugins for libraries that may be absent; they
    only answer for others.
    """
    gpu, machines, wants, have = [], {}, [], set()
    for folder in loader_folders():
        if os.path.isdir(folder):
            have.update(os.listdir(folder))
    for root in roots:
        for folder, _, files in os.walk(root):
            theirs = {"nvidia", "triton"} & set(folder[len(root) :].split("/"))
            for name in files:
                path = os.path.join(folder, name)
                if ".so" not in name:
                    continue
                have.add(name)
                if theirs or os.path.islink(path) or os.path.getsize(path) < 64:
                    continue
                with open(path, "rb") as file:
                    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                    try:
                        machine, section = elf_section(data, b".nv_fatbin")
                        names = needed(data)
                        if machine is None:
                            continue
                        machines[path] = machine
                        wants += [(path, n) for n in names if not n.startswith(DRIVER)]
                        if section:
                            cubins, ptx = fatbin_architectures(data, *section)
                            gpu.append(
                                {
                                    "path": path,
                                    "machine": machine,
                                    "cubins": cubins,
                                    "ptx": ptx,
                                    "needed": names,
                                }
                            )
                    finally:
                        data.close()
    return {
        "libraries": sorted(gpu, key=lambda lib: lib["path"]),
        "other_machines": machines,
        "unresolved": sorted(
            "{} needs {}".format(path, name) for path, name in wants if name not in have
        ),
    }
