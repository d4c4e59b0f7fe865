#![allow(unsafe_code, reason = "rustix has no quotactl")]
//! Disk quotas of the user and the group that the agent runs as, where the kernel keeps them: file systems on a
//! block device of this node, such as ext4 and XFS. NFS, Lustre and GPFS have calls of their own, which are
//! not made here; of them, as of a file system without quotas, nothing is said.

use libc::{Q_GETQUOTA, QCMD, QIF_BLIMITS, QIF_ILIMITS, QIF_INODES, QIF_SPACE, dqblk};
use rebloom_core::health::signal::Headroom;
use rustix::fs::{Dev, major, minor, stat};
use rustix::process::{getegid, geteuid};
use std::ffi::{CString, c_int};
use std::path::Path;

/// Bytes of the blocks in which limits are given (`QIF_DQBLKSIZE` of the kernel).
const BLOCK: u64 = 1024;

/// Whose quota it is, as sys/quota.h counts.
const USRQUOTA: c_int = 0;
const GRPQUOTA: c_int = 1;

/// What is left, and how much there is in all.
type Left = (Headroom, u64, u64);

/// What quotas leave where a path lies; empty where there are none, or they cannot be read.
pub fn left(path: &Path) -> Vec<Left> {
    let Ok(seen) = stat(path) else {
        return Vec::new();
    };
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let device = device(&mounts, seen.st_dev).and_then(|device| CString::new(device).ok());
    let Some(device) = device else {
        return Vec::new();
    };
    let owners = [
        (USRQUOTA, geteuid().as_raw()),
        (GRPQUOTA, getegid().as_raw()),
    ];
    let quotas = owners
        .into_iter()
        .filter_map(|(which, id)| quota(&device, which, id.cast_signed()));
    quotas.flat_map(|quota| headroom(&quota)).collect()
}

/// No quotas, none for this owner, no right to ask, no such device in this container: all of it is none.
fn quota(device: &CString, which: c_int, id: c_int) -> Option<dqblk> {
    let mut quota = NOTHING;
    let into = (&raw mut quota).cast();
    // SAFETY: the name ends with a zero, and Q_GETQUOTA writes one dqblk.
    let code = unsafe { libc::quotactl(QCMD(Q_GETQUOTA, which), device.as_ptr(), id, into) };
    (code == 0).then_some(quota)
}

/// Before the kernel has said anything.
const NOTHING: dqblk = dqblk {
    dqb_bhardlimit: 0,
    dqb_bsoftlimit: 0,
    dqb_curspace: 0,
    dqb_ihardlimit: 0,
    dqb_isoftlimit: 0,
    dqb_curinodes: 0,
    dqb_btime: 0,
    dqb_itime: 0,
    dqb_valid: 0,
};

fn headroom(quota: &dqblk) -> impl Iterator<Item = Left> + use<> {
    let is_said = |field| quota.dqb_valid & field != 0;
    let said = |field, value| is_said(field).then_some(value);
    let limits = |field, hard, soft| is_said(field).then_some((hard, soft));
    let bytes = of_limits(
        said(QIF_SPACE, quota.dqb_curspace),
        limits(QIF_BLIMITS, quota.dqb_bhardlimit, quota.dqb_bsoftlimit),
        BLOCK,
    );
    let inodes = of_limits(
        said(QIF_INODES, quota.dqb_curinodes),
        limits(QIF_ILIMITS, quota.dqb_ihardlimit, quota.dqb_isoftlimit),
        1,
    );
    let bytes = bytes.map(|(left, total)| (Headroom::Quota, left, total));
    let inodes = inodes.map(|(left, total)| (Headroom::Inodes, left, total));
    bytes.into_iter().chain(inodes)
}

/// What is left below the hard limit, or the soft one where that is all there is; 0 is no limit, of which
/// everything is left. None where the kernel does not say.
fn of_limits(used: Option<u64>, limits: Option<(u64, u64)>, unit: u64) -> Option<(u64, u64)> {
    let (used, (hard, soft)) = (used?, limits?);
    let limit = if hard > 0 { hard } else { soft };
    if limit == 0 {
        return Some((u64::MAX, u64::MAX));
    }
    let total = limit.saturating_mul(unit);
    Some((total.saturating_sub(used), total))
}

/// The block device of a file system, by its number, in the words of /proc/self/mountinfo; none where it has none.
fn device(mounts: &[u8], number: Dev) -> Option<Vec<u8>> {
    let number = format!("{}:{}", major(number), minor(number));
    mounts.split(|byte| *byte == b'\n').find_map(|line| {
        let mut words = line.split(|byte| *byte == b' ');
        let is_it = words.nth(2)? == number.as_bytes();
        // Behind the dash: the kind of file system, then where it comes from.
        words.find(|word| *word == b"-")?;
        let source = words.nth(1)?;
        (is_it && source.starts_with(b"/")).then(|| plain(source))
    })
}

/// A word of mountinfo without its escapes: blanks and the like stand there as `\040`.
fn plain(mut word: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    while let [first, rest @ ..] = word {
        let octal = rest.get(..3).and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match octal {
            Some(byte) if *first == b'\\' => {
                plain.push(byte);
                word = rest.get(3..).unwrap_or_default();
            }
            Some(_) | None => {
                plain.push(*first);
                word = rest;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::makedev;

    #[test]
    fn the_block_device_is_found_by_its_number() {
        let mounts = b"22 27 0:21 / /proc rw,relatime - proc proc rw\n\
            31 27 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw\n\
            40 31 259:2 /deep /bind rw master:3 propagate_from:2 - ext4 /dev/nvme0n1p2 rw\n\
            41 31 8:17 / /with\\040blank rw - xfs /dev/disk/by-label/big\\040disk\\134x rw,usrquota\n\
            42 31 0:50 / /home rw - nfs4 filer:/home rw,vers=4.2\n\
            43 31 0:51 / /lustre rw - lustre 10.0.0.1@tcp:/work rw\nshort line\n";
        let found = |major, minor| device(mounts, makedev(major, minor));
        assert_eq!(found(259, 2), Some(b"/dev/nvme0n1p2".to_vec()));
        let blank = b"/dev/disk/by-label/big disk\\x";
        assert_eq!(found(8, 17), Some(blank.to_vec()));
        for none in [
            found(0, 50),
            found(0, 51),
            found(0, 21),
            found(8, 18),
            found(59, 2),
        ] {
            assert_eq!(none, None);
        }
        assert_eq!(device(b"", makedev(8, 1)), None);
    }

    #[test]
    fn what_is_left_of_a_limit() {
        let of = |used, hard, soft| of_limits(Some(used), Some((hard, soft)), BLOCK);
        assert_eq!(of(1024, 100, 50), Some((99 * 1024, 100 * 1024)));
        assert_eq!(of(1024, 0, 50), Some((49 * 1024, 50 * 1024)));
        assert_eq!(of(1 << 20, 100, 0), Some((0, 100 * 1024)), "beyond it");
        assert_eq!(of(7, 0, 0), Some((u64::MAX, u64::MAX)), "no limit");
        assert_eq!(of_limits(None, Some((1, 1)), 1), None);
        assert_eq!(of_limits(Some(1), None, 1), None);
        let mut quota = dqblk {
            dqb_bhardlimit: 10,
            dqb_ihardlimit: 20,
            dqb_curspace: 1024,
            ..NOTHING
        };
        let told = |quota: &dqblk| headroom(quota).collect::<Vec<_>>();
        assert!(told(&quota).is_empty(), "it says nothing");
        quota.dqb_valid = QIF_BLIMITS | QIF_INODES;
        assert!(told(&quota).is_empty(), "half of each");
        quota.dqb_valid |= QIF_SPACE;
        let bytes = (Headroom::Quota, 9 * 1024, 10 * 1024);
        assert_eq!(told(&quota), [bytes]);
        quota.dqb_valid |= QIF_ILIMITS;
        assert_eq!(told(&quota), [bytes, (Headroom::Inodes, 20, 20)]);
    }

    #[test]
    fn where_there_is_no_quota_there_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let said = left(directory.path());
        assert!(
            said.iter().all(|(_, left, total)| left <= total),
            "{said:?}"
        );
        assert!(left(Path::new("/nowhere/at/all")).is_empty());
        assert!(left(Path::new("/proc")).is_empty());
    }
}
