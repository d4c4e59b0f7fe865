//! The version of NCCL that a worker would load, found without loading it: the dynamic linker says which file that
//! is (`LD_TRACE_LOADED_OBJECTS`, as `ldd` does), and the file holds its version as text. Nothing of NVIDIA runs.

use rebloom_core::ladder::gate::Nccl;
use regex::bytes::Regex;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How long it may take to find out: the library may lie on slow storage, and has some 100 MB.
const WITHIN: Duration = Duration::from_secs(10);
/// What is read of the library at once, in bytes.
const CHUNK: usize = 1 << 20;
/// No version has so many bytes, with the words before it.
const LONGEST: usize = 64;

/// The version that ranks of this worker would use on a GPU; none, and a warning, where it cannot be found.
pub fn of(worker: &Path) -> Option<Nccl> {
    let (found, answer) = mpsc::channel();
    let worker = worker.to_owned();
    // A thread that storage holds up is left behind.
    std::thread::spawn(move || drop(found.send(look_up(&worker))));
    let found = answer
        .recv_timeout(WITHIN)
        .unwrap_or_else(|_| Err(format!("no answer within {} s", WITHIN.as_secs())));
    match found {
        Ok(version) => {
            tracing::info!(%version, "found NCCL");
            Some(version)
        }
        Err(why) => {
            tracing::warn!(
                why,
                "cannot find the version of NCCL: launches stay asynchronous after hangs; --nccl says it"
            );
            None
        }
    }
}

/// As the worker does: libtorch_cuda from where its libtorch_cpu really lies, and what that one needs.
fn look_up(worker: &Path) -> Result<Nccl, String> {
    let loads = |also: Option<&Path>, name: &str| {
        let listed = listed(worker, also)
            .map_err(|error| format!("cannot ask what {} loads: {error}", worker.display()))?;
        file(&listed, name).ok_or_else(|| format!("{} loads no {name}", worker.display()))
    };
    let cpu = loads(None, "libtorch_cpu.so")?;
    let cpu = cpu
        .canonicalize()
        .map_err(|error| format!("{}: {error}", cpu.display()))?;
    let cuda = cpu.with_file_name("libtorch_cuda.so");
    if !cuda.is_file() {
        return Err(format!("there is no {}", cuda.display()));
    }
    let nccl = loads(Some(&cuda), "libnccl.so.2")?;
    let version = File::open(&nccl).and_then(version);
    version
        .map_err(|error| format!("{}: {error}", nccl.display()))?
        .ok_or_else(|| format!("{} does not say its version", nccl.display()))
}

/// What the dynamic linker would load for a program, and for a library before it, a line for each. The program
/// itself is not run.
fn listed(program: &Path, before: Option<&Path>) -> io::Result<String> {
    let mut command = Command::new(program);
    command
        .env("LD_TRACE_LOADED_OBJECTS", "1")
        .env_remove("LD_PRELOAD")
        .envs(before.map(|library| ("LD_PRELOAD", library)))
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let listed = command.output()?.stdout;
    Ok(String::from_utf8_lossy(&listed).into_owned())
}

/// The file of a library, in the list of the dynamic linker.
fn file(listed: &str, name: &str) -> Option<PathBuf> {
    listed.lines().find_map(|line| {
        let (wanted, found) = line.trim().split_once(" => ")?;
        // Behind the file stands its address.
        let (path, _) = found.rsplit_once(" (0x")?;
        (wanted == name && path.starts_with('/')).then(|| PathBuf::from(path))
    })
}

/// The version that a library says in its text, as `NCCL version 2.28.9+cuda13.0`.
fn version(mut library: impl Read) -> io::Result<Option<Nccl>> {
    let said = Regex::new(r"NCCL version (\d+\.\d+\.\d+)").map_err(io::Error::other)?;
    let mut text = Vec::new();
    loop {
        let last = text.len();
        (&mut library).take(CHUNK as u64).read_to_end(&mut text)?;
        let is_end = text.len() == last;
        let found = said.captures_iter(&text).find_map(|found| {
            let number = found.get(1)?;
            // At the edge there may be more of it to come.
            let is_whole = is_end || number.end() < text.len();
            let number = std::str::from_utf8(number.as_bytes()).ok()?;
            is_whole.then(|| number.parse().ok()).flatten()
        });
        if found.is_some() || is_end {
            return Ok(found);
        }
        text.drain(..text.len().saturating_sub(LONGEST));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_a_library_is_found_in_the_linker_s_list() {
        let listed = "\tlinux-vdso.so.1 (0x00007f33ddf59000)\n\
            \tlibtorch_cpu.so => /opt/my torch/lib/libtorch_cpu.so (0x00007f33c8400000)\n\
            \tlibnccl.so.2 => not found\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f33ddf5b000)\n";
        let torch = PathBuf::from("/opt/my torch/lib/libtorch_cpu.so");
        assert_eq!(file(listed, "libtorch_cpu.so"), Some(torch));
        assert_eq!(file(listed, "libnccl.so.2"), None);
        assert_eq!(file(listed, "libtorch_cuda.so"), None);
        assert_eq!(file("statically linked\n", "libtorch_cpu.so"), None);
    }

    #[test]
    fn a_library_says_its_version_wherever_it_stands() {
        let text = b"NCCL version %d NCCL version 2.7\0 NCCL version 2.28.19+cuda13.0\0rest";
        // Around the edges of what is read at once, too.
        let edges = (CHUNK - 70..CHUNK + 2).chain([0, 1, 5000, 3 * CHUNK]);
        for before in edges {
            let mut library = vec![0; before];
            library.extend(text);
            assert_eq!(
                version(&library[..]).unwrap(),
                Some(Nccl(2, 28, 19)),
                "{before}"
            );
        }
        assert_eq!(
            version(&b"NCCL version 2.16.5"[..]).unwrap(),
            Some(Nccl(2, 16, 5))
        );
        assert_eq!(version(&vec![7; 2 * CHUNK][..]).unwrap(), None);
        assert_eq!(version(&b""[..]).unwrap(), None);
    }
}
