//! A hub on this machine: the requests that programs make of the Hugging Face Hub, answered from memory, and the ways
//! in which a server can fail.
#![allow(dead_code, reason = "each test binary uses a part")]

use sha1::{Digest, Sha1};
use sha2::Sha256;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How a server departs from what it should do.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Each transfer ends after so many bytes; the first is used first.
    pub cut: Vec<u64>,
    /// Content of large files has another byte in it.
    pub corrupt: bool,
    /// Whole files are sent, whatever is asked for.
    pub no_ranges: bool,
    /// Parts are sent from another byte than was asked for.
    pub wrong_range: bool,
    /// Every answer leads to another.
    pub redirects: bool,
    /// The length of large files that the hub tells is so many bytes off.
    pub lie: i64,
    /// Nothing comes after the headers of large files.
    pub stall: bool,
    /// A byte now and then is all that comes of large files.
    pub drip: bool,
    /// More names in the list of files.
    pub names: Vec<String>,
    /// The list of files, whatever it should be.
    pub listing: Option<Vec<u8>>,
    /// Tag of every file.
    pub etag: Option<String>,
    /// Status of every answer.
    pub status: Option<u16>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    faults: Faults,
    log: Vec<String>,
}

/// A repository `org/repo` on a hub.
pub struct Server {
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

struct Request {
    head: bool,
    path: String,
    range: Option<String>,
    authorized: bool,
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub fn git_sha1(bytes: &[u8]) -> String {
    hex(&Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
}

/// Weights are kept as large files are.
fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".gguf")
}

impl Server {
    pub fn new(files: &[(&str, &[u8])]) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        let state = Arc::new(Mutex::new(State { files, ..State::default() }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    // A client that goes away ends the thread.
                    let _ = serve(stream, port, &shared);
                });
            }
        });
        Server { endpoint: format!("http://127.0.0.1:{port}"), state }
    }

    /// The files of a directory.
    pub fn of_dir(dir: &std::path::Path) -> Server {
        let mut files = vec![];
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            files.push((entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()));
        }
        let files: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
        Server::new(&files)
    }

    pub fn faults(&self, faults: Faults) {
        self.state.lock().unwrap().faults = faults;
    }

    /// `METHOD path range` of every request since this was last asked for.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }
}

fn read_request(stream: &TcpStream) -> std::io::Result<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().ok_or(std::io::ErrorKind::UnexpectedEof)??;
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let mut request = Request { head: method == "HEAD", path, range: None, authorized: false };
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = Some(value.to_owned()),
            "authorization" => request.authorized = value == "Bearer hf_secret",
            _ => {}
        }
    }
    Ok(request)
}

fn answer(stream: &mut TcpStream, status: &str, headers: &[(&str, String)], length: usize) -> std::io::Result<()> {
    let mut text = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{text}\r\n").as_bytes())
}

fn serve(mut stream: TcpStream, port: u16, state: &Mutex<State>) -> std::io::Result<()> {
    let request = read_request(&stream)?;
    let (faults, files) = {
        let mut state = state.lock().unwrap();
        let token = if request.authorized { " token" } else { "" };
        let range = request.range.as_deref().unwrap_or("-");
        let method = if request.head { "HEAD" } else { "GET" };
        state.log.push(format!("{method} {} {range}{token}", request.path));
        (state.faults.clone(), state.files.clone())
    };
    let s = &mut stream;
    if faults.redirects {
        return answer(s, "302 Found", &[("Location", format!("{}x", request.path))], 0);
    }
    if let Some(status) = faults.status {
        return answer(s, &format!("{status} No"), &[], 0);
    }
    if request.path == "/api/models/org/repo/revision/main?blobs=true" {
        let names = files.iter().map(|(n, b)| (n.clone(), b.len())).chain(faults.names.iter().map(|n| (n.clone(), 1)));
        let siblings: Vec<_> = names.map(|(n, b)| serde_json::json!({ "rfilename": n, "size": b })).collect();
        let plain = serde_json::json!({ "id": "org/repo", "sha": COMMIT, "siblings": siblings, "tags": [] }).to_string().into_bytes();
        let bytes = faults.listing.unwrap_or(plain);
        answer(s, "200 OK", &[], bytes.len())?;
        return s.write_all(&bytes);
    }
    // Small files are led on within the host, as the Hub does.
    let name = request.path.strip_prefix(&format!("/org/repo/resolve/{COMMIT}/"));
    let small = request.path.strip_prefix("/api/resolve-cache/");
    let (name, led) = (name.or(small), small.is_some());
    if let Some((name, bytes)) = name.and_then(|n| files.get_key_value(n)) {
        let commit = ("X-Repo-Commit", COMMIT.to_owned());
        if is_large(name) {
            let etag = faults.etag.unwrap_or_else(|| sha256(bytes));
            let size = (bytes.len() as i64 + faults.lie).to_string();
            // Content is on another host.
            let to = ("Location", format!("http://localhost:{port}/content/{name}"));
            let linked =
                [commit, ("X-Linked-Etag", format!("\"{etag}\"")), ("X-Linked-Size", size), to, ("ETag", "\"of-the-redirect\"".into())];
            return answer(s, "302 Found", &linked, 0);
        }
        if !led {
            return answer(s, "307 Temporary Redirect", &[commit, ("Location", format!("/api/resolve-cache/{name}"))], 0);
        }
        answer(s, "200 OK", &[commit, ("ETag", format!("\"{}\"", git_sha1(bytes)))], bytes.len())?;
        return if request.head { Ok(()) } else { s.write_all(bytes) };
    }
    match request.path.strip_prefix("/content/").and_then(|n| files.get(n)) {
        Some(bytes) => content(s, bytes.clone(), &request, &faults, state),
        None => answer(s, "404 Not Found", &[("X-Error-Code", "EntryNotFound".into())], 0),
    }
}

fn content(s: &mut TcpStream, mut bytes: Vec<u8>, request: &Request, faults: &Faults, state: &Mutex<State>) -> std::io::Result<()> {
    if faults.corrupt {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    }
    let span = request.range.as_deref().filter(|_| !faults.no_ranges).and_then(|r| r.strip_prefix("bytes=")?.split_once('-'));
    let body = match span {
        Some((from, to)) => {
            let from = from.parse::<usize>().unwrap() + usize::from(faults.wrong_range);
            let to = to.parse().map_or(bytes.len(), |t: usize| (t + 1).min(bytes.len()));
            let range = format!("bytes {from}-{}/{}", to - 1, bytes.len());
            answer(s, "206 Partial Content", &[("Content-Range", range)], to - from)?;
            &bytes[from..to]
        }
        None => {
            answer(s, "200 OK", &[], bytes.len())?;
            &bytes[..]
        }
    };
    if faults.stall {
        std::thread::sleep(Duration::from_secs(5));
        return Ok(());
    }
    if faults.drip {
        for b in body.iter().take(100) {
            s.write_all(&[*b])?;
            std::thread::sleep(Duration::from_millis(50));
        }
        return Ok(());
    }
    let cut = {
        let cuts = &mut state.lock().unwrap().faults.cut;
        if cuts.is_empty() { usize::MAX } else { cuts.remove(0) as usize }
    };
    s.write_all(&body[..body.len().min(cut)])
}
