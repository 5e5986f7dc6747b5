//! The programs with checkpoints of a hub, which is a server on this machine.

#[path = "../../rlx-models-core/tests/common/hub.rs"]
mod server;

use serde_json::Value;
use server::Server;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const ASK: [&str; 2] = ["--prompt", "What is the capital of Norway?"];
const OSLO: &str = "The capital of Norway is Oslo.\n";

fn weights(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../weights").join(name)
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

/// A user of a hub, with a home of their own.
struct User {
    home: tempfile::TempDir,
    endpoint: String,
}

impl User {
    fn of(server: &Server) -> User {
        User { home: tempfile::tempdir().unwrap(), endpoint: server.endpoint.clone() }
    }

    fn run(&self, args: &[&str]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rlx-run"));
        for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "XDG_CACHE_HOME"] {
            command.env_remove(name);
        }
        let out = command.args(args).env("HF_ENDPOINT", &self.endpoint).env("HF_HOME", self.home.path()).stdin(Stdio::null()).output();
        let out = out.unwrap();
        let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
        let ran = Ran { code: out.status.code().unwrap_or(-1), out: text(out.stdout), err: text(out.stderr) };
        assert!(!ran.err.contains("panicked"), "{args:?}: {}", ran.err);
        ran
    }

    fn ask(&self, args: &[&str]) -> String {
        let ran = self.run(&[args, &ASK].concat());
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
        ran.out
    }

    fn json(&self, args: &[&str]) -> Value {
        let ran = self.run(&[args, &["--json"]].concat());
        serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{args:?}: {e}: {}{}", ran.out, ran.err))
    }
}

#[test]
fn a_model_of_the_hub_answers_and_is_downloaded_once() {
    let server = Server::of_dir(&weights("rlx-tiny-chat"));
    let mut user = User::of(&server);
    assert_eq!(user.ask(&["auto", "--hf", "org/repo"]), OSLO);
    assert!(server.requests().len() > 6);
    assert_eq!(user.ask(&["qwen3", "--hf=org/repo"]), OSLO);
    assert_eq!(server.requests(), [""; 0]);
    // The profile beside the weights came too.
    assert!(user.home.path().join(format!("hub/models--org--repo/snapshots/{}/qwen3.rlx.toml", server::COMMIT)).exists());
    // Nobody is at home at port 9.
    user.endpoint = "http://127.0.0.1:9".into();
    assert_eq!(user.ask(&["auto", "--hf", "org/repo", "--offline"]), OSLO);
    assert_eq!(user.json(&["plan", "--hf", "org/repo"])["family"], "qwen3");
    assert_eq!(user.json(&["inspect", "--hf", "org/repo"])["program"], "rlx-qwen3");
    let local = weights("rlx-tiny-chat");
    let same = user.json(&["compare", "--hf", "org/repo", local.to_str().unwrap(), "--limit", "4"]);
    assert_eq!(same["kl_mean"].as_f64(), Some(0.0), "{same}");
    let out = user.home.path().join("tiny.gguf");
    let ran = user.run(&["convert", "--hf", "org/repo", out.to_str().unwrap(), "--quiet"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(out.exists());
}

#[test]
fn a_gguf_file_is_picked_by_a_part_of_its_name() {
    let gguf = std::fs::read(weights("rlx-tiny-chat-gguf/rlx-tiny-chat-Q4_K_M.gguf")).unwrap();
    let server = Server::new(&[("tiny-Q4_K_M.gguf", &gguf), ("tiny-Q8_0.gguf", b"not asked for"), ("README.md", b"")]);
    let user = User::of(&server);
    assert_eq!(user.ask(&["auto", "--hf", "org/repo"]), OSLO);
    assert_eq!(user.ask(&["qwen3", "--hf", "org/repo:q4_k_m"]), OSLO);
    assert!(!server.requests().iter().any(|r| r.contains("Q8_0") || r.contains("README")));
    let ran = user.run(&["auto", "--hf", "org/repo:Q6_K"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("no weights file has that in its name") && ran.err.contains("tiny-Q8_0.gguf"), "{}", ran.err);
}

#[test]
fn check_judges_a_repository_by_its_headers_as_it_judges_the_files() {
    for (name, most) in [("rlx-tiny-chat", 100_000), ("rlx-tiny-chat-gguf", 1_000_000)] {
        let server = Server::of_dir(&weights(name));
        let user = User::of(&server);
        let mut remote = user.json(&["check", "org/repo"]);
        let read = remote["read"].take().as_u64().unwrap();
        assert!(read < most, "{name}: {read} bytes");
        assert_eq!(remote["verdict"], "SUPPORTED");
        assert_eq!(remote["place"].take(), "org/repo");
        assert_eq!(remote["command"].take(), "rlx-qwen3 --hf org/repo");
        assert!(!user.home.path().join("hub").exists());
        let mut local = user.json(&["check", weights(name).to_str().unwrap()]);
        (local["place"], local["command"]) = (Value::Null, Value::Null);
        assert_eq!(remote, local, "{name}");
        // Once it is downloaded, nothing is asked.
        user.ask(&["auto", "--hf", "org/repo"]);
        server.requests();
        assert_eq!(user.json(&["check", "org/repo", "--offline"])["read"], Value::Null);
        assert_eq!(server.requests(), [""; 0]);
    }
}

#[test]
fn check_finds_in_headers_what_is_wrong_with_a_repository() {
    let read = |file: &str| std::fs::read(weights("rlx-tiny-chat").join(file)).unwrap();
    let (config, model) = (String::from_utf8(read("config.json")).unwrap(), read("model.safetensors"));
    let strange = config.replace("qwen3", "quokka").replace("Qwen3", "Quokka");
    let wide = config.replace("\"hidden_size\": 256", "\"hidden_size\": 512");
    assert!(strange != config && wide != config);
    for (config, tokenizer, verdict, code) in [
        (&strange, "tokenizer.json", "Unknown", 5),
        (&wide, "tokenizer.json", "KnownUnimplemented", 3),
        (&config, "other.json", "MissingMetadata", 4),
    ] {
        let server = Server::new(&[("config.json", config.as_bytes()), ("model.safetensors", &model), (tokenizer, b"{}")]);
        let user = User::of(&server);
        let ran = user.run(&["check", "org/repo"]);
        assert_eq!(ran.code, code, "{}{}", ran.out, ran.err);
        assert!(ran.out.starts_with(verdict), "{}", ran.out);
        assert!(!ran.out.contains("/tmp") && ran.out.contains("from the Hub"), "{}", ran.out);
    }
    let user = User::of(&Server::new(&[("pytorch_model.bin", b"PK"), ("config.json", config.as_bytes())]));
    let found = user.json(&["check", "org/repo"]);
    assert_eq!((&found["verdict"], &found["format"]), (&"KnownUnimplemented".into(), &"pytorch".into()));
}

#[test]
fn mistakes_are_told() {
    let user = User::of(&Server::new(&[]));
    for (args, code, words) in [
        (&["qwen3", "--hf", "nonsense"][..], 2, "expected org/repo"),
        (&["auto", "--hf", "a/b/c"], 2, "expected org/repo"),
        (&["qwen3", "--hf", "org/repo", "weights"], 2, "name the weights once"),
        (&["plan"], 2, "--hf org/repo"),
        (&["plan", "--hf", "org/repo", "--offline"], 1, "offline, and the cache"),
        (&["check", "org/repo", "--offline"], 1, "offline, and the cache"),
        (&["check", "no/such/file"], 2, "no file or directory here"),
        (&["check", "org/other"], 1, "org/other is no file or directory here, and as a repository"),
        (&["check", "org/other"], 1, "404"),
        (&["plan", "--hf", "org/repo"], 1, "no weights found"),
    ] {
        let ran = user.run(args);
        assert_eq!(ran.code, code, "{args:?}: {}", ran.err);
        assert!(ran.err.contains(words) && ran.out.is_empty(), "{args:?}: {}", ran.err);
    }
}
