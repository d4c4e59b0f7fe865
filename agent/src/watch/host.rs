//! The host: memory, the wall clock, the storage of checkpoints, and which boot this is.

use super::quota;
use rebloom_core::health::gauge::Reading;
use rebloom_core::health::signal::Headroom;
use rustix::fs::{StatVfs, StatVfsMountFlags, statvfs};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use std::path::Path;
use sysinfo::System;

/// Names this boot: the kernel's boot id, or 0 where it gives none.
pub fn boot() -> u64 {
    let id = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let mut first = [0; 8];
    first.copy_from_slice(&Sha256::digest(id)[..8]);
    u64::from_le_bytes(first)
}

/// Memory that processes can still have, and how far the clock is ahead of the controller's.
pub fn look(ahead: Option<i64>) -> Vec<Reading> {
    let mut readings: Vec<_> = ahead
        .map(|ahead| Reading::Clock { ahead })
        .into_iter()
        .collect();
    if let Ok(mut system) = System::new() {
        system.refresh_memory();
        let (available, total) = (system.available_memory(), system.total_memory());
        let (available, total) = match system.cgroup_limits() {
            Some(limits) if limits.total_memory < total => {
                (limits.free_memory, limits.total_memory)
            }
            Some(_) | None => (available, total),
        };
        readings.push(Reading::Memory { available, total });
    }
    readings
}

/// What is left where checkpoints are kept: of each resource the least share of all directories.
pub fn storage(directories: &[String]) -> Vec<Reading> {
    if directories.is_empty() {
        return Vec::new();
    }
    let mut left: Vec<(Headroom, u64, u64)> = Vec::new();
    for directory in directories {
        match look_at(Path::new(directory)) {
            Ok(seen) => left.extend(seen),
            Err(error) => return vec![Reading::Storage(Err(format!("{directory}: {error}")))],
        }
    }
    vec![Reading::Storage(Ok(least(&left)))]
}

/// Of each resource the least share.
fn least(left: &[(Headroom, u64, u64)]) -> Vec<(Headroom, u64, u64)> {
    let each = [Headroom::Space, Headroom::Inodes, Headroom::Quota];
    let least = each.into_iter().filter_map(|of| {
        let of = left
            .iter()
            .filter(|(what, _, total)| *what == of && *total > 0);
        // By share, without dividing: a/b < c/d where a*d < c*b.
        of.copied().min_by(|a, b| {
            (u128::from(a.1) * u128::from(b.2)).cmp(&(u128::from(b.1) * u128::from(a.2)))
        })
    });
    least.collect()
}

/// A directory that is not there yet is looked at where it will be.
fn look_at(directory: &Path) -> Result<Vec<(Headroom, u64, u64)>, String> {
    for at in directory.ancestors() {
        match statvfs(at) {
            Ok(seen) if seen.f_flag.contains(StatVfsMountFlags::RDONLY) => {
                return Err("the file system can only be read".to_owned());
            }
            Ok(seen) => {
                let mut left = quota::left(at);
                left.extend(headroom(&seen));
                return Ok(left);
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Err("there is no such directory".to_owned())
}

/// What ordinary users may still have; a file system without inodes of its own says 0 of 0. A quota
/// of a project or a fileset shows here as a smaller file system.
const fn headroom(seen: &StatVfs) -> [(Headroom, u64, u64); 2] {
    let space = seen.f_bavail.saturating_mul(seen.f_frsize);
    let total = seen.f_blocks.saturating_mul(seen.f_frsize);
    [
        (Headroom::Space, space, total),
        (Headroom::Inodes, seen.f_favail, seen.f_files),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_memory_storage_and_a_boot() {
        let seen = look(Some(5));
        assert!(seen.contains(&Reading::Clock { ahead: 5 }));
        let is_sound = |reading: &Reading| matches!(reading, Reading::Memory { available: 1.., total } if *total > 0);
        assert!(seen.iter().any(is_sound), "{seen:?}");
        assert_eq!(boot(), boot());
    }

    #[test]
    fn storage_is_looked_at_where_it_will_be() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("not/there/yet");
        let seen = storage(&[deep.display().to_string()]);
        let [Reading::Storage(Ok(left))] = seen.as_slice() else {
            panic!("{seen:?}");
        };
        assert!(
            left.iter()
                .any(|(of, left, total)| *of == Headroom::Space && left <= total)
        );
        assert!(storage(&[]).is_empty());
    }

    #[test]
    fn of_each_resource_the_least_share_is_told() {
        let all = [
            (Headroom::Space, 50, 100),
            (Headroom::Quota, 5, 10),
            (Headroom::Inodes, 0, 0),
            (Headroom::Quota, u64::MAX, u64::MAX),
            (Headroom::Quota, 90, 1000),
            (Headroom::Space, 1, 3),
            (Headroom::Inodes, u64::MAX, u64::MAX),
            (Headroom::Inodes, 7, 9),
        ];
        let told = [
            (Headroom::Space, 1, 3),
            (Headroom::Inodes, 7, 9),
            (Headroom::Quota, 90, 1000),
        ];
        assert_eq!(least(&all), told);
    }

    #[test]
    fn what_is_no_directory_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let below = file.path().join("checkpoints");
        let seen = storage(&[below.display().to_string()]);
        assert!(
            matches!(seen.as_slice(), [Reading::Storage(Err(_))]),
            "{seen:?}"
        );
    }
}
