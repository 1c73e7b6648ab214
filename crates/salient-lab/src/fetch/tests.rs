//! Fetching from a package client that is a shell script.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use super::*;

/// A cache, packages to fill it from, and a client that copies them and counts its calls.
struct World {
    folder: TempDir,
    cache: Cache,
}

const ONE: &[u8] = b"the first text";
const TWO: &[u8] = b"the second text";

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (zip, tgz) = (folder.path().join("a.whl"), folder.path().join("b.tgz"));
        write_zip(&zip);
        write_tgz(&tgz);
        let package = |client, file: &'static str, path: &Path| -> &'static Package {
            Box::leak(Box::new(Package {
                client,
                name: "texts",
                version: "1",
                file,
                bytes: fs::metadata(path).unwrap().len(),
                sha256: hash_of(path),
            }))
        };
        let a = package(Client::Pip, "a.whl", &zip);
        let b = package(Client::Npm, "b.tgz", &tgz);
        let asset = |name, package, contents, path, sha256| Asset {
            name,
            about: "",
            licence: "CC0-1.0",
            package,
            contents,
            path,
            bytes: 14,
            sha256,
        };
        let sample = folder.path().join("sample");
        let sha256 = |bytes: &[u8]| {
            fs::write(&sample, bytes).unwrap();
            hash_of(&sample)
        };
        let (one, two) = (sha256(ONE), sha256(TWO));
        let listing = sha256(format!("{one}  1.txt\n{two}  2.txt\n").as_bytes());
        let assets = vec![
            asset("one", a, Contents::File("in/one"), "texts/one", one),
            asset("two", a, Contents::File("in/two"), "texts/two", two),
            asset(
                "all",
                b,
                Contents::Folder { prefix: "in/", suffix: ".txt" },
                "texts/all",
                listing,
            ),
            asset("absent", a, Contents::File("in/three"), "texts/three", one),
            asset("changed", a, Contents::File("in/one"), "texts/changed", two),
        ];
        let cache = Cache {
            root: folder.path().join("cache"),
            assets: assets.leak(),
            clients: Clients { pip: vec![], npm: vec![] },
            stop: || false,
        };
        let mut world = Self { folder, cache };
        world.client("cp \"$packages\"/*.whl \"$packages\"/*.tgz \"$into\"");
        world
    }

    /// Makes both clients run `action`, after noting the call.
    fn client(&mut self, action: &str) {
        let path = self.folder.path().join("client");
        let script = format!(
            "[ \"$1\" = --version ] && exit 0\npackages='{0}'\necho call >> '{0}/calls'\n\
             for word; do into=\"$last\"; last=\"$word\"; done\n{action}\n",
            self.folder.path().display()
        );
        fs::write(&path, script).unwrap();
        let spelling = vec![vec!["sh".into(), path.display().to_string()]];
        self.cache.clients = Clients { pip: spelling.clone(), npm: spelling };
    }

    fn calls(&self) -> usize {
        fs::read_to_string(self.folder.path().join("calls")).unwrap_or_default().lines().count()
    }

    fn asset(&self, name: &str) -> &'static Asset {
        self.cache.assets.iter().find(|asset| asset.name == name).unwrap()
    }

    fn fetch(&self, name: &str) -> Result<Fetched> {
        self.cache.fetch(self.asset(name), false, &ProgressBar::hidden())
    }

    fn state(&self, name: &str, verify: bool) -> State {
        self.cache.state(self.asset(name), verify, &ProgressBar::hidden()).unwrap()
    }

    fn package(&self) -> PathBuf {
        self.cache.root.join("packages/a.whl")
    }
}

fn hash_of(path: &Path) -> &'static str {
    unpack::hash(path, || false, &ProgressBar::hidden()).unwrap().leak()
}

fn write_zip(path: &Path) {
    let mut zip = zip::ZipWriter::new(File::create(path).unwrap());
    for (name, bytes) in [("in/one", ONE), ("in/two", TWO), ("other", b"else")] {
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

fn write_tgz(path: &Path) {
    let gzip =
        flate2::write::GzEncoder::new(File::create(path).unwrap(), flate2::Compression::fast());
    let mut tar = tar::Builder::new(gzip);
    for (name, bytes) in [
        ("in/2.txt", TWO),
        ("in/1.txt", ONE),
        ("in/1.json", b"{}"),
        ("in/deeper/3.txt", ONE),
        ("out/4.txt", ONE),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap();
}

#[test]
fn one_download_serves_all_assets_of_a_package_and_none_serves_the_cached() {
    let world = World::new();
    assert!(matches!(world.cache.resolve("one"), Err(Error::NotCached { .. })));
    assert_eq!(world.fetch("one").unwrap(), Fetched::Fetched);
    assert!(world.package().exists());
    assert_eq!(world.fetch("two").unwrap(), Fetched::Fetched);
    assert_eq!(world.fetch("one").unwrap(), Fetched::Cached);
    assert_eq!(world.calls(), 1);
    assert_eq!(fs::read(world.cache.resolve("two").unwrap()).unwrap(), TWO);
}

#[test]
fn a_folder_holds_the_named_files_and_its_package_goes_once_used() {
    let world = World::new();
    world.fetch("all").unwrap();
    let folder = world.cache.resolve("all").unwrap();
    assert_eq!(unpack::file_names(&folder).unwrap(), ["1.txt", "2.txt"]);
    assert_eq!(fs::read(folder.join("1.txt")).unwrap(), ONE);
    assert!(!world.cache.root.join("packages/b.tgz").exists());
    fs::write(folder.join("1.txt"), "altered").unwrap();
    assert!(matches!(world.state("all", false), State::Damaged { .. }));
}

#[test]
fn a_package_placed_by_hand_needs_no_client() {
    let mut world = World::new();
    world.cache.clients = Clients { pip: vec![], npm: vec![] };
    fs::create_dir_all(world.package().parent().unwrap()).unwrap();
    fs::copy(world.folder.path().join("a.whl"), world.package()).unwrap();
    assert_eq!(world.fetch("one").unwrap(), Fetched::Fetched);
}

#[test]
fn a_damaged_package_or_asset_is_fetched_again() {
    let world = World::new();
    fs::create_dir_all(world.package().parent().unwrap()).unwrap();
    fs::write(world.package(), "half a pack").unwrap();
    world.fetch("one").unwrap();
    let path = world.cache.resolve("one").unwrap();
    fs::write(&path, "something else").unwrap();
    let message = world.cache.resolve("one").unwrap_err().to_string();
    assert!(message.contains("run `salient fetch one`"), "{message}");
    assert_eq!(world.fetch("one").unwrap(), Fetched::Fetched);
    assert_eq!(fs::read(&path).unwrap(), ONE);
    assert_eq!(world.calls(), 1);
}

#[test]
fn the_stamp_spares_hashing_until_verified() {
    let world = World::new();
    world.fetch("one").unwrap();
    let path = world.cache.resolve("one").unwrap();
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "the FIRST text").unwrap();
    File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    assert_eq!(world.state("one", false), State::Cached);
    assert!(matches!(world.state("one", true), State::Damaged { .. }));
}

#[test]
fn wrong_hashes_name_both_and_leave_nothing() {
    let mut world = World::new();
    let error = world.fetch("changed").unwrap_err();
    let Error::WrongHash { path, expected, actual, removed: true } = error else {
        panic!("{error:?}");
    };
    assert_ne!(expected, actual);
    assert!(!path.exists());
    assert!(matches!(world.fetch("absent"), Err(Error::Malformed { .. })));

    fs::remove_file(world.package()).unwrap();
    world.client("echo else > \"$into/a.whl\"");
    let error = world.fetch("one").unwrap_err();
    assert!(matches!(error, Error::WrongHash { removed: true, .. }), "{error:?}");
    assert!(!world.package().exists());
}

#[test]
fn a_failing_or_missing_client_is_explained() {
    let mut world = World::new();
    world.client("echo 'ERROR: no such host' >&2; echo >&2; exit 1");
    let message = world.fetch("one").unwrap_err().to_string();
    assert!(message.contains("ERROR: no such host"), "{message}");
    assert!(message.contains("place a.whl at"), "{message}");
    world.client("exit 0");
    assert!(matches!(world.fetch("one"), Err(Error::ClientFailed { .. })));
    world.cache.clients.pip = vec![vec!["/no/such/pip".into()]];
    let message = world.fetch("one").unwrap_err().to_string();
    assert!(message.contains("install Python 3 with pip"), "{message}");
}

#[test]
fn an_interrupted_download_is_resumed() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let mut world = World::new();
    world.cache.stop = || STOP.load(Ordering::SeqCst);
    world.client("echo half > \"$into/a.whl\"; exec sleep 600");
    let calls = world.folder.path().join("calls");
    let interrupter = thread::spawn(move || {
        while !calls.exists() {
            thread::sleep(Duration::from_millis(5));
        }
        STOP.store(true, Ordering::SeqCst);
    });
    assert!(matches!(world.fetch("one"), Err(Error::Interrupted)));
    interrupter.join().unwrap();
    assert_eq!(world.state("one", false), State::Missing);
    STOP.store(false, Ordering::SeqCst);
    world.client("cp \"$packages\"/*.whl \"$into\"");
    assert_eq!(world.fetch("one").unwrap(), Fetched::Fetched);
}

#[test]
fn concurrent_fetches_download_once() {
    let mut world = World::new();
    world.client("sleep 0.2; cp \"$packages\"/*.whl \"$into\"");
    let outcomes: Vec<_> = thread::scope(|scope| {
        let start = |name| {
            let world = &world;
            scope.spawn(move || world.fetch(name).unwrap())
        };
        let running: Vec<_> = ["one", "one", "two", "one"].into_iter().map(start).collect();
        running.into_iter().map(|fetch| fetch.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Fetched::Fetched).count(), 2);
    assert_eq!(world.calls(), 1);
    assert_eq!(world.state("one", true), State::Cached);
    assert_eq!(world.state("two", true), State::Cached);
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let mut world = World::new();
    let file = world.folder.path().join("file");
    fs::write(&file, "").unwrap();
    world.cache.root = file.join("cache");
    let message = world.fetch("one").unwrap_err().to_string();
    assert!(message.starts_with("cannot write"), "{message}");
}

#[test]
fn every_group_names_assets_and_every_asset_is_found() {
    for (group, names) in GROUPS {
        assert_eq!(assets(group).unwrap().len(), names.len());
    }
    for asset in ASSETS {
        assert_eq!(assets(asset.name).unwrap()[0].name, asset.name);
        assert_eq!(asset.sha256.len(), 64);
        assert_eq!(asset.package.sha256.len(), 64);
    }
    assert!(matches!(assets("gpt"), Err(Error::Unknown { .. })));
    assert!(matches!(resolve("gpt"), Err(Error::Unknown { .. })));
    assert_eq!(resolve(".").unwrap(), Path::new("."));
}
