//! The hub, against a server on this machine.
#![cfg(feature = "hub")]

mod common;
#[path = "common/hub.rs"]
mod server;

use common::safetensors;
use rlx_core::check::Outline;
use rlx_core::hub::{Hub, HubError, HubOptions};
use rlx_core::weights::{LoadOpts, ResolveWeightsOptions, open_with};
use rlx_gguf::{GgufWriter, TensorType};
use server::{COMMIT, Faults, Server};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const CONFIG: &[u8] = br#"{"model_type":"qwen3","architectures":["Qwen3ForCausalLM"]}"#;

/// A safetensors file of `n` bytes of data.
fn weights(n: usize) -> Vec<u8> {
    let header = format!(r#"{{"a.weight":{{"dtype":"U8","shape":[{n}],"data_offsets":[0,{n}]}}}}"#);
    let data: Vec<u8> = (0..n).map(|i| ((i * i) >> 3) as u8).collect();
    safetensors(&header, &data)
}

fn gguf(tensor: &str) -> Vec<u8> {
    let mut w = GgufWriter::new();
    w.put("general.architecture", "qwen3").unwrap();
    w.tensor(tensor, TensorType::F32, &[1024], vec![7; 4096]).unwrap();
    w.to_bytes()
}

/// A plain repository with 300 000 bytes of weights.
fn repository() -> Server {
    let (tokenizer, weights): (&[u8], _) = (b"{}", weights(300_000));
    Server::new(&[("config.json", CONFIG), ("README.md", b"no"), ("tokenizer.json", tokenizer), ("model.safetensors", &weights)])
}

type Files<'a> = &'a [(&'a str, &'a [u8])];

struct Client {
    cache: TempDir,
    options: HubOptions,
}

impl Client {
    fn of(server: &Server) -> Client {
        let cache = tempfile::tempdir().unwrap();
        let mut options = HubOptions::from_env().offline(false);
        (options.endpoint, options.cache, options.offline) = (server.endpoint.clone(), Some(cache.path().join("hub")), false);
        (options.token, options.patience) = (Some("hf_secret".into()), Duration::from_millis(500));
        Client { cache, options }
    }

    fn hub(&self) -> Hub {
        Hub::new(self.options.clone())
    }

    fn fetch(&self, spec: &str) -> Result<PathBuf, HubError> {
        self.hub().fetch(&spec.parse().unwrap(), &ResolveWeightsOptions::default(), &mut |_, _, _| {})
    }

    fn refusal(&self, spec: &str) -> String {
        let e = self.fetch(spec).unwrap_err().to_string();
        self.nothing_outside();
        e
    }

    /// All that was written is in the cache.
    fn nothing_outside(&self) {
        for entry in fs::read_dir(self.cache.path()).unwrap() {
            assert_eq!(entry.unwrap().file_name(), "hub");
        }
    }

    fn repo(&self) -> PathBuf {
        self.cache.path().join("hub/models--org--repo")
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_repository_is_downloaded_once_into_the_layout_of_huggingface_hub() {
    let server = repository();
    let client = Client::of(&server);
    let mut seen = vec![];
    let spec = "org/repo".parse().unwrap();
    let path = client.hub().fetch(&spec, &ResolveWeightsOptions::default(), &mut |n, done, all| seen.push((n.to_owned(), done, all)));
    let path = path.unwrap();
    assert_eq!(path, client.repo().join("snapshots").join(COMMIT).join("model.safetensors"));
    assert_eq!(open_with(LoadOpts::map(), &path).unwrap().total_bytes(), 300_000);
    assert_eq!(names(path.parent().unwrap()), ["config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(fs::read_to_string(client.repo().join("refs/main")).unwrap(), COMMIT);
    let blob = server::sha256(&weights(300_000));
    let mut blobs = vec![blob.clone(), server::git_sha1(CONFIG), server::git_sha1(b"{}")];
    blobs.sort();
    assert_eq!(names(&client.repo().join("blobs")), blobs);
    #[cfg(unix)]
    assert_eq!(fs::read_link(&path).unwrap(), Path::new("../../blobs").join(blob));
    let last = seen.last().unwrap();
    assert!(last.0 == "model.safetensors" && last.1 == last.2 && last.2 > 300_000, "{last:?}");
    let requests = server.requests();
    assert!(requests[0].starts_with("GET /api/models/org/repo/revision/main"), "{requests:?}");
    // The token is for the hub, and not for whoever has the content.
    for r in &requests {
        assert_eq!(r.ends_with(" token"), !r.contains("/content/"), "{r}");
    }

    // Now all is here.
    assert_eq!(client.fetch("org/repo").unwrap(), path);
    assert_eq!(client.fetch(&format!("org/repo@{COMMIT}")).unwrap(), path);
    assert_eq!(server.requests(), [""; 0]);
}

#[test]
fn a_broken_download_goes_on_where_it_ended() {
    let server = repository();
    let client = Client::of(&server);
    let whole = weights(300_000);
    // Within one run: the connection breaks twice.
    server.faults(Faults { cut: vec![100_000, 50_000], ..Faults::default() });
    let path = client.fetch("org/repo").unwrap();
    assert_eq!(fs::read(path).unwrap(), whole);
    let ranges: Vec<String> = server.requests().into_iter().filter(|r| r.contains("/content/")).collect();
    assert_eq!(ranges, ["-", "bytes=100000-", "bytes=150000-"].map(|r| format!("GET /content/model.safetensors {r}")));

    // Over two: the second begins with what the first left.
    let client = Client::of(&server);
    server.faults(Faults { cut: vec![70_000, 0, 0, 0, 0], ..Faults::default() });
    let e = client.refusal("org/repo");
    assert!(e.contains("goes on from there"), "{e}");
    let partial = client.repo().join("blobs").join(format!("{}.incomplete", server::sha256(&whole)));
    assert_eq!(fs::metadata(&partial).unwrap().len(), 70_000);
    server.requests();
    assert_eq!(fs::read(client.fetch("org/repo").unwrap()).unwrap(), whole);
    let last = server.requests().pop().unwrap();
    assert_eq!(last, "GET /content/model.safetensors bytes=70000-");
    assert!(!partial.exists());

    // A server that knows no ranges starts over.
    let client = Client::of(&server);
    server.faults(Faults { cut: vec![70_000], no_ranges: true, ..Faults::default() });
    assert_eq!(fs::read(client.fetch("org/repo").unwrap()).unwrap(), whole);
}

#[test]
fn content_that_is_not_what_was_promised_never_gets_its_name() {
    let server = repository();
    let client = Client::of(&server);
    server.faults(Faults { corrupt: true, ..Faults::default() });
    let e = client.refusal("org/repo");
    assert!(e.contains("SHA-256 of the download is") && e.contains("model.safetensors"), "{e}");
    assert!(!client.repo().join("snapshots").join(COMMIT).join("model.safetensors").exists());
    assert_eq!(names(&client.repo().join("blobs")).len(), 2, "the two small files");

    // The twin.
    server.faults(Faults::default());
    client.fetch("org/repo").unwrap();

    // What is left of an earlier try counts too.
    let client = Client::of(&server);
    let blobs = client.repo().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{}.incomplete", server::sha256(&weights(300_000)))), [9; 1000]).unwrap();
    assert!(client.refusal("org/repo").contains("try again"));
    client.fetch("org/repo").unwrap();

    // Small files have the hash that git gives them.
    let small = Server::new(&[("config.json", CONFIG), ("model.safetensors", &weights(10))]);
    let client = Client::of(&small);
    let blobs = client.repo().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{}.incomplete", server::git_sha1(CONFIG))), b"{").unwrap();
    client.fetch("org/repo").unwrap();
    let client = Client::of(&small);
    let blobs = client.repo().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{}.incomplete", server::git_sha1(CONFIG))), vec![b'x'; CONFIG.len()]).unwrap();
    let e = client.refusal("org/repo");
    assert!(e.contains("git SHA-1"), "{e}");
}

#[test]
fn offline_takes_what_is_there_and_lists_what_is_not() {
    let server = repository();
    let mut client = Client::of(&server);
    client.options.offline = true;
    let e = client.refusal("org/repo");
    assert!(e.contains("offline") && e.contains("revision main") && e.contains("--offline"), "{e}");
    client.options.offline = false;
    let path = client.fetch("org/repo").unwrap();
    client.options.offline = true;
    server.requests();
    assert_eq!(client.fetch("org/repo").unwrap(), path);
    fs::remove_file(&path).unwrap();
    fs::remove_file(path.with_file_name("tokenizer.json")).unwrap();
    let e = client.refusal("org/repo");
    assert!(e.contains("lacks \"model.safetensors\", \"tokenizer.json\""), "{e}");
    let dir = tempfile::tempdir().unwrap();
    let e = client.hub().headers(&"org/repo".parse().unwrap(), &ResolveWeightsOptions::default(), dir.path()).unwrap_err();
    assert!(matches!(e, HubError::Offline { .. }), "{e}");
    assert_eq!(server.requests(), [""; 0]);
    // Content that is still there is not downloaded again.
    client.options.offline = false;
    client.fetch("org/repo").unwrap();
    assert!(!server.requests().iter().any(|r| r.contains("/content/")));
}

/// Another program's cache has no list of files.
#[test]
fn a_cache_that_another_program_filled_is_used_when_it_has_everything() {
    let server = Server::new(&[]);
    let client = Client::of(&server);
    let snapshot = client.repo().join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(client.repo().join("refs")).unwrap();
    fs::write(client.repo().join("refs/main"), COMMIT).unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::write(snapshot.join(name), CONFIG).unwrap();
    }
    fs::write(snapshot.join("model.safetensors.index.json"), r#"{"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#).unwrap();
    fs::write(snapshot.join("m-1.safetensors"), weights(8)).unwrap();
    assert!(client.hub().cached(&"org/repo".parse().unwrap(), &ResolveWeightsOptions::default()).unwrap().is_none());
    let mut offline = Client::of(&server);
    offline.options = client.options.clone().offline(true);
    assert!(offline.refusal("org/repo").contains("\"m-2.safetensors\""));
    fs::write(snapshot.join("m-2.safetensors"), weights(8)).unwrap();
    assert_eq!(client.fetch("org/repo").unwrap(), snapshot.join("model.safetensors.index.json"));
    assert_eq!(server.requests(), [""; 0]);

    // One GGUF file may be any of several: only by name is it certain.
    for entry in names(&snapshot) {
        fs::remove_file(snapshot.join(entry)).unwrap();
    }
    fs::write(snapshot.join("m-Q8_0.gguf"), gguf("a")).unwrap();
    assert_eq!(client.fetch("org/repo:Q8_0").unwrap(), snapshot.join("m-Q8_0.gguf"));
    assert_eq!(server.requests(), [""; 0]);
    assert!(client.fetch("org/repo").is_err(), "the list is asked for, and has no weights");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn quantisations_are_picked_and_all_parts_come() {
    let (q4, q8) = (gguf("a"), gguf("b"));
    let part = |n: u16| {
        let mut w = GgufWriter::new();
        w.put("general.architecture", "qwen3").unwrap();
        w.put("split.no", n).unwrap();
        w.put("split.count", 2u16).unwrap();
        w.put("split.tensors.count", 2i32).unwrap();
        w.tensor(if n == 0 { "a" } else { "b" }, TensorType::F32, &[1], vec![0; 4]).unwrap();
        w.to_bytes()
    };
    let (first, second) = (part(0), part(1));
    let server = Server::new(&[
        ("m-Q4_K_M.gguf", &q4),
        ("m-Q8_0.gguf", &q8),
        ("mmproj-m-Q8_0.gguf", &q8),
        ("BF16/m-BF16-00001-of-00002.gguf", &first),
        ("BF16/m-BF16-00002-of-00002.gguf", &second),
        ("tokenizer.json", b"{}"),
    ]);
    let client = Client::of(&server);
    assert!(client.fetch("org/repo").unwrap().ends_with("m-Q4_K_M.gguf"));
    assert!(!server.requests().iter().any(|r| r.contains("Q8_0") || r.contains("tokenizer")), "no more than is needed");
    assert!(client.fetch("org/repo:q8_0").unwrap().ends_with("m-Q8_0.gguf"));
    let split = client.fetch("org/repo:BF16").unwrap();
    assert_eq!(open_with(LoadOpts::map(), &split).unwrap().tensors().count(), 2);
    server.requests();
    client.fetch("org/repo:BF16").unwrap();
    assert_eq!(server.requests(), [""; 0]);
    let opts = LoadOpts::default().prefer_quant("Q8_0").resolve;
    let path = client.hub().fetch(&"org/repo".parse().unwrap(), &opts, &mut |_, _, _| {}).unwrap();
    assert!(path.ends_with("m-Q8_0.gguf"));
    let e = client.refusal("org/repo:Q2_K");
    assert!(e.contains("no weights file has that in its name") && e.contains("m-Q8_0.gguf"), "{e}");
}

#[test]
fn names_that_lead_out_of_the_cache_are_refused() {
    for name in ["../../x.gguf", "/x.gguf", "a/../../../x.gguf", "a\\..\\x.gguf", "C:\\x.gguf", "x\u{0}.gguf", ""] {
        let server = repository();
        server.faults(Faults { names: vec![name.into()], ..Faults::default() });
        let client = Client::of(&server);
        let e = client.refusal("org/repo");
        assert!(e.contains("rfilename") && e.contains("inside the repository"), "{name}: {e}");
        assert!(!client.repo().exists());
    }
    // Shards are named by a file of the repository.
    let index = br#"{"weight_map":{"a":"../../../x.safetensors"}}"#;
    let server = Server::new(&[("config.json", CONFIG), ("model.safetensors.index.json", index)]);
    assert!(Client::of(&server).refusal("org/repo").contains("without directories"));
    let server = Server::new(&[("model.safetensors.index.json", br#"{"weight_map":{"a":"b.safetensors"}}"#)]);
    assert!(Client::of(&server).refusal("org/repo").contains("lacks \"b.safetensors\""));
    // Tags become names too.
    for etag in ["../../x", "", "a/b", "a.b"] {
        let server = repository();
        server.faults(Faults { etag: Some(etag.into()), ..Faults::default() });
        assert!(Client::of(&server).refusal("org/repo").contains("etag"), "{etag}");
    }
    // The twin: a tag that is no hash.
    let server = repository();
    server.faults(Faults { etag: Some("d41d8-3".into()), ..Faults::default() });
    Client::of(&server).fetch("org/repo").unwrap();
}

#[test]
fn hostile_and_broken_servers_are_errors_within_bounds() {
    let cases: [(Faults, &str); 9] = [
        (Faults { redirects: true, ..Faults::default() }, "more than 8 redirects"),
        (Faults { lie: -1000, ..Faults::default() }, "length: found 30"),
        (Faults { lie: 1000, ..Faults::default() }, "length: found 30"),
        (Faults { listing: Some(b"[".repeat(100_000)), ..Faults::default() }, "the list of files"),
        (Faults { listing: Some(b"{}".to_vec()), ..Faults::default() }, "sha"),
        (Faults { listing: Some(br#"{"sha":"../..","siblings":[]}"#.to_vec()), ..Faults::default() }, "40 hexadecimal digits"),
        (Faults { listing: Some(vec![b' '; 33 << 20]), ..Faults::default() }, "at most 33554432"),
        (Faults { status: Some(404), ..Faults::default() }, "404: there is no such repository"),
        (Faults { status: Some(401), ..Faults::default() }, "HF_TOKEN"),
    ];
    for (faults, want) in cases {
        let server = repository();
        let client = Client::of(&server);
        let name = format!("{want}: {:?}", faults.status);
        server.faults(faults);
        let started = Instant::now();
        let e = client.refusal("org/repo");
        assert!(e.contains(want) && e.len() < 1000, "{name}: {e}");
        assert!(started.elapsed() < Duration::from_secs(10), "{name}: {:?}", started.elapsed());
        assert!(!client.repo().join("snapshots").join(COMMIT).join("model.safetensors").exists());
    }
    // An answer that begins elsewhere is not appended.
    let server = repository();
    let client = Client::of(&server);
    server.faults(Faults { cut: vec![70_000], wrong_range: true, ..Faults::default() });
    let e = client.refusal("org/repo");
    assert!(e.contains("a part from byte 70001") && e.contains("from byte 70000"), "{e}");
}

#[test]
fn servers_that_say_nothing_are_given_up() {
    for faults in [Faults { stall: true, ..Faults::default() }, Faults { drip: true, ..Faults::default() }] {
        let server = repository();
        let client = Client::of(&server);
        server.faults(faults.clone());
        let started = Instant::now();
        let e = client.refusal("org/repo");
        assert!(e.contains("goes on from there"), "{faults:?}: {e}");
        assert!(started.elapsed() < Duration::from_secs(20), "{faults:?}: {:?}", started.elapsed());
    }
    let mut client = Client::of(&repository());
    client.options.endpoint = "http://127.0.0.1:9".into();
    let e = client.refusal("org/repo");
    assert!(e.contains("127.0.0.1:9"), "{e}");
}

#[test]
fn two_programs_do_not_download_one_file_twice() {
    let server = repository();
    let client = Client::of(&server);
    std::thread::scope(|s| {
        let runs: Vec<_> = (0..4).map(|_| s.spawn(|| client.fetch("org/repo").unwrap())).collect();
        for run in runs {
            assert_eq!(fs::read(run.join().unwrap()).unwrap(), weights(300_000));
        }
    });
    assert_eq!(server.requests().iter().filter(|r| r.contains("/content/")).count(), 1);
}

/// The outline of a repository from headers, the bytes it took, and the outline of the same files on disk.
fn outlines(files: Files<'_>, spec: &str) -> (Outline, u64, Outline) {
    let server = Server::new(files);
    let client = Client::of(&server);
    let dir = tempfile::tempdir().unwrap();
    let headers = client.hub().headers(&spec.parse().unwrap(), &ResolveWeightsOptions::default(), dir.path()).unwrap();
    let remote = Outline::open(&headers.path, &LoadOpts::default()).unwrap();
    assert_eq!(headers.requests, server.requests().len() as u64);
    assert!(!client.repo().exists());
    let local = common::dir_with(&[]);
    for (name, bytes) in files {
        let path = local.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let path = local.path().join(headers.path.strip_prefix(dir.path()).unwrap());
    (remote, headers.read, Outline::open(&path, &LoadOpts::default()).unwrap())
}

#[test]
fn headers_say_what_whole_files_say() {
    let weights = weights(3_000_000);
    let (long, mut w) = (gguf("a"), GgufWriter::new());
    w.put("general.architecture", "qwen3").unwrap();
    // Longer than the first request.
    w.put("note", "x".repeat(200_000)).unwrap();
    w.tensor("a", TensorType::F32, &[500_000], vec![7; 2_000_000]).unwrap();
    let wide = w.to_bytes();
    let names: Vec<String> = (0..2000).map(|i| format!("{i:060}")).collect();
    let entries: Vec<String> =
        names.iter().enumerate().map(|(i, n)| format!(r#""{n}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{}]}}"#, i + 1)).collect();
    let many = safetensors(&format!("{{{}}}", entries.join(",")), &vec![0; 2000]);
    let index = br#"{"weight_map":{"a.weight":"m-1.safetensors"}}"#;
    let plain = [("config.json", CONFIG), ("model.safetensors", &*weights), ("tokenizer.json", b"{}")];
    let cases: [(Files<'_>, &str, u64); 6] = [
        (&plain, "org/repo", 70_000),
        (&[("config.json", CONFIG), ("model.safetensors.index.json", index), ("m-1.safetensors", &weights)], "org/repo", 70_000),
        (&[("model.safetensors", &many)], "org/repo", 250_000),
        (&[("m-Q4_K_M.gguf", &wide), ("m-Q8_0.gguf", &long)], "org/repo", 500_000),
        (&[("m-Q4_K_M.gguf", &wide), ("big/m-Q8_0.gguf", &wide)], "org/repo:Q8_0", 500_000),
        (&[("pytorch_model.bin", &weights), ("config.json", CONFIG)], "org/repo", 1000),
    ];
    for (files, spec, most) in cases {
        let (remote, read, local) = outlines(files, spec);
        assert_eq!(remote.container, local.container, "{spec}");
        assert_eq!(remote.tensors, local.tensors);
        assert_eq!((&remote.files, &remote.model_type, &remote.gguf_arch), (&local.files, &local.model_type, &local.gguf_arch));
        assert!(read < most, "{read} bytes for {:?}", files.iter().map(|f| f.0).collect::<Vec<_>>());
    }
}

#[test]
fn damaged_headers_afar_are_errors() {
    let mut cut = gguf("a");
    cut.truncate(40);
    for (name, bytes) in [("model.safetensors", weights(9)[..20].to_vec()), ("model.safetensors", vec![0xff; 64]), ("m.gguf", cut)] {
        let server = Server::new(&[(name, &bytes)]);
        let dir = tempfile::tempdir().unwrap();
        let e = Client::of(&server).hub().headers(&"org/repo".parse().unwrap(), &ResolveWeightsOptions::default(), dir.path());
        let e = e.unwrap_err();
        assert!(matches!(e, HubError::Weights(_)), "{name}: {e}");
    }
}
