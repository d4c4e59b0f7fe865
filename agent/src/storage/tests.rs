use super::*;
use rebloom_core::checkpoint::MANIFEST_VERSION;
use rebloom_core::id::{Generation, Rank, Step};
use rebloom_core::layout::Layout;

fn checkpoint(folder: &Path, step: u64) -> Manifest {
    let run = RunId::new("r").unwrap();
    let id = CheckpointId {
        step: Step(step),
        generation: Generation(1),
    };
    let place = place(folder.to_str().unwrap(), &run, id).unwrap();
    fs::create_dir_all(&place).unwrap();
    let shards = (0..2).map(|rank| {
        let file = format!("rank-{rank:05}.safetensors");
        let content = format!("shard {rank} of step {step}");
        fs::write(place.join(&file), &content).unwrap();
        let hash = ShardHash::of(content.as_bytes());
        Shard {
            rank: Rank(rank),
            file,
            bytes: content.len() as u64,
            hash,
        }
    });
    let layout = Layout {
        tensor: 1,
        pipeline: 2,
        data: 1,
    };
    Manifest {
        version: MANIFEST_VERSION,
        run,
        id,
        layout,
        samples: 7,
        shards: shards.collect(),
    }
}

fn shard_path(folder: &Path, manifest: &Manifest, rank: usize) -> PathBuf {
    place(folder.to_str().unwrap(), &manifest.run, manifest.id)
        .unwrap()
        .join(&manifest.shards[rank].file)
}

#[test]
fn what_is_sealed_is_listed_newest_first_and_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().to_str().unwrap();
    for step in [5, 20, 10] {
        seal(directory, &checkpoint(folder.path(), step)).unwrap();
    }
    let unsealed = checkpoint(folder.path(), 30);
    let run = unsealed.run.clone();
    let steps = |listed: Vec<Manifest>| listed.iter().map(|m| m.id.step.0).collect::<Vec<_>>();
    assert_eq!(steps(sealed(directory, &run)), [20, 10, 5]);

    let manifest = checkpoint(folder.path(), 20);
    let found = verify(directory, &run, manifest.id).unwrap();
    assert_eq!((found.shards, found.problems.len()), (2, 0));
    assert_eq!(
        found.bytes,
        manifest.shards.iter().map(|shard| shard.bytes).sum::<u64>()
    );
    let found = verify(directory, &run, unsealed.id).unwrap();
    assert_eq!(
        found.problems,
        [Unsound::Missing {
            file: MANIFEST.to_owned()
        }]
    );

    let torn = place(directory, &run, manifest.id).unwrap().join(MANIFEST);
    fs::write(torn, "{").unwrap();
    assert_eq!(steps(sealed(directory, &run)), [10, 5]);
    assert!(matches!(
        verify(directory, &run, manifest.id).unwrap().problems[..],
        [Unsound::Unreadable { .. }]
    ));
}

#[test]
fn flipped_missing_and_short_shards_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().to_str().unwrap();
    let manifest = checkpoint(folder.path(), 5);
    seal(directory, &manifest).unwrap();
    let path = shard_path(folder.path(), &manifest, 1);
    let file = manifest.shards[1].file.clone();
    let problems = || {
        verify(directory, &manifest.run, manifest.id)
            .unwrap()
            .problems
    };

    let mut content = fs::read(&path).unwrap();
    content[3] ^= 1;
    fs::write(&path, &content).unwrap();
    assert_eq!(problems(), [Unsound::Hash { file: file.clone() }]);
    fs::write(&path, "short").unwrap();
    let expected = manifest.shards[1].bytes;
    assert_eq!(
        problems(),
        [Unsound::Length {
            file: file.clone(),
            expected,
            found: 5
        }]
    );
    fs::remove_file(&path).unwrap();
    assert_eq!(problems(), [Unsound::Missing { file }]);
}

#[test]
fn what_is_not_whole_is_not_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().to_str().unwrap();
    let manifest = checkpoint(folder.path(), 5);

    let mut half = manifest.clone();
    half.shards.pop();
    assert!(
        seal(directory, &half)
            .unwrap_err()
            .to_string()
            .contains("one shard of each rank")
    );
    let mut escaping = manifest.clone();
    escaping.shards[0].file = "../../etc".to_owned();
    assert!(
        seal(directory, &escaping)
            .unwrap_err()
            .to_string()
            .contains("plain file name")
    );
    fs::write(shard_path(folder.path(), &manifest, 0), "torn").unwrap();
    let error = seal(directory, &manifest).unwrap_err().to_string();
    assert!(
        error.contains("rank-00000.safetensors has 4 bytes"),
        "{error}"
    );
    assert_eq!(sealed(directory, &manifest.run), []);
}

#[test]
fn a_manifest_that_cannot_be_written_is_an_error_and_seals_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().to_str().unwrap();
    let manifest = checkpoint(folder.path(), 5);
    let place = place(directory, &manifest.run, manifest.id).unwrap();
    fs::create_dir(place.join(MANIFEST)).unwrap();
    let error = seal(directory, &manifest).unwrap_err().to_string();
    assert!(error.contains(MANIFEST), "{error}");
    assert_eq!(sealed(directory, &manifest.run), []);
    assert_eq!(
        fs::read_dir(&place).unwrap().count(),
        3,
        "nothing is left aside"
    );
}

#[test]
fn only_checkpoints_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("checkpoints");
    let directory = directory.to_str().unwrap();
    let (old, new) = (
        checkpoint(Path::new(directory), 5),
        checkpoint(Path::new(directory), 10),
    );
    seal(directory, &old).unwrap();
    seal(directory, &new).unwrap();
    remove(directory, &old.run, old.id).unwrap();
    remove(directory, &old.run, old.id).unwrap();
    assert_eq!(sealed(directory, &old.run), std::slice::from_ref(&new));

    let outside = folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join(MANIFEST), "precious").unwrap();
    std::os::unix::fs::symlink(&outside, place(directory, &old.run, old.id).unwrap()).unwrap();
    assert!(remove(directory, &old.run, old.id).is_err());
    assert!(outside.join(MANIFEST).exists());
    assert!(remove("relative", &old.run, new.id).is_err());
    assert!(remove("/a/../b", &old.run, new.id).is_err());
}

#[test]
fn the_version_before_verifies_and_another_is_passed_over_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().to_str().unwrap();
    let mut manifest = checkpoint(folder.path(), 5);
    for shard in &mut manifest.shards {
        let path = place(directory, &manifest.run, manifest.id).unwrap();
        let mut hash = ShardHash::of_version(1);
        hash.update(&fs::read(path.join(&shard.file)).unwrap());
        shard.hash = hash.finish();
    }
    manifest.version = 1;
    seal(directory, &manifest).unwrap();
    let verified = || verify(directory, &manifest.run, manifest.id).unwrap();
    assert_eq!((verified().shards, verified().problems), (2, Vec::new()));
    assert_eq!(sealed(directory, &manifest.run).len(), 1);

    for version in [0, MANIFEST_VERSION + 1] {
        let other = Manifest {
            version,
            ..manifest.clone()
        };
        let path = place(directory, &manifest.run, manifest.id)
            .unwrap()
            .join(MANIFEST);
        fs::write(path, serde_json::to_vec(&other).unwrap()).unwrap();
        assert_eq!(sealed(directory, &manifest.run), []);
        let found = verified();
        assert_eq!((found.shards, found.bytes), (0, 0), "nothing is read");
        let [Unsound::Unreadable { file, error }] = &found.problems[..] else {
            panic!("{:?}", found.problems);
        };
        assert_eq!(file, MANIFEST);
        let wanted = format!("version: {version} is not known; this build reads 1 to 2");
        assert!(error.ends_with(&wanted), "{error}");
    }
}
