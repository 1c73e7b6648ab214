//! A small hub on this machine: listings, files and redirects to where large files are.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::{fs, thread};

use sha2::{Digest, Sha256};

/// The commit of every repository, until it is changed.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A repository of models.
#[derive(Clone)]
pub(crate) struct Repository {
    pub(crate) commit: String,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// The token without which nobody sees it.
    pub(crate) token: Option<String>,
}

impl Repository {
    pub(crate) fn new() -> Self {
        Self { commit: COMMIT.to_owned(), files: BTreeMap::new(), token: None }
    }

    /// All files of a folder.
    pub(crate) fn of(folder: &Path) -> Self {
        let mut repository = Self::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            repository = repository.with(name, &fs::read(&path).unwrap());
        }
        repository
    }

    pub(crate) fn with(mut self, name: &str, content: &[u8]) -> Self {
        self.files.insert(name.to_owned(), content.to_vec());
        self
    }
}

/// What becomes of a large file's content half way.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Trouble {
    /// The connection ends.
    Cut,
    /// Nothing comes any more.
    Stall,
    /// It is another content.
    Change,
}

/// What was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) token: Option<String>,
}

#[derive(Default)]
struct State {
    repositories: BTreeMap<String, Repository>,
    requests: Vec<Request>,
    trouble: Option<Trouble>,
    down: bool,
}

pub(crate) struct Server {
    pub(crate) url: String,
    state: Arc<Mutex<State>>,
    stalled: Receiver<TcpStream>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let (stall, stalled) = mpsc::channel();
        let hub = Hub { url: url.clone(), state: state.clone(), stall };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let hub = hub.clone();
                // Clients may leave whenever they like.
                thread::spawn(move || hub.serve(stream).is_ok());
            }
        });
        Self { url, state, stalled }
    }

    pub(crate) fn put(&self, name: &str, repository: Repository) {
        self.state.lock().unwrap().repositories.insert(name.to_owned(), repository);
    }

    /// From now on, until it is another one.
    pub(crate) fn trouble(&self, trouble: Option<Trouble>) {
        self.state.lock().unwrap().trouble = trouble;
    }

    /// From now on every answer is that the service is not there.
    pub(crate) fn go_down(&self) {
        self.state.lock().unwrap().down = true;
    }

    /// What was asked for since this was last called.
    pub(crate) fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }

    /// Waits until a download stalls; it does so until what is returned is dropped.
    pub(crate) fn stalled(&self) -> TcpStream {
        self.stalled.recv().unwrap()
    }
}

#[derive(Clone)]
struct Hub {
    url: String,
    state: Arc<Mutex<State>>,
    stall: Sender<TcpStream>,
}

impl Hub {
    /// One request and its answer.
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let first = lines.next().unwrap_or(Ok(String::new()))?;
        let mut words = first.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut request = Request { path, range: None, token: None };
        for line in lines {
            let line = line?;
            let Some((header, value)) = line.split_once(": ") else {
                break;
            };
            match header.to_ascii_lowercase().as_str() {
                "range" => request.range = Some(value.to_owned()),
                "authorization" => request.token = value.strip_prefix("Bearer ").map(str::to_owned),
                _ => {}
            }
        }
        let (answer, trouble) = {
            let mut state = self.state.lock().unwrap();
            state.requests.push(request.clone());
            (self.answer(&state, &request), state.trouble)
        };
        write!(stream, "HTTP/1.1 {}\r\n", answer.status)?;
        for (header, value) in &answer.headers {
            write!(stream, "{header}: {value}\r\n")?;
        }
        write!(stream, "content-length: {}\r\nconnection: close\r\n\r\n", answer.body.len())?;
        if method == "HEAD" {
            return Ok(());
        }
        let half = answer.body.len() / 2;
        match trouble.filter(|_| request.path.starts_with("/large/") && half > 0) {
            None => stream.write_all(&answer.body),
            Some(Trouble::Cut) => stream.write_all(&answer.body[..half]),
            Some(Trouble::Stall) => {
                stream.write_all(&answer.body[..half])?;
                // The receiver has gone when the test is over.
                let _ = self.stall.send(stream);
                Ok(())
            }
            Some(Trouble::Change) => {
                let mut body = answer.body;
                body[half] ^= 1;
                stream.write_all(&body)
            }
        }
    }

    fn answer(&self, state: &State, request: &Request) -> Answer {
        if state.down {
            return Answer::of("503 Service Unavailable");
        }
        let parts: Vec<&str> = request.path.trim_start_matches('/').split('/').collect();
        let (owner, model) = match parts[..] {
            ["api", "models", owner, model, ..] | ["large", owner, model, ..] => (owner, model),
            [owner, model, ..] => (owner, model),
            _ => return Answer::of("404 Not Found"),
        };
        let name = format!("{owner}/{model}");
        // As the hub does it: who has no token learns nothing.
        let hidden = if request.token.is_some() { "404 Not Found" } else { "401 Unauthorized" };
        let seen = |r: &&Repository| r.token.is_none() || r.token == request.token;
        let Some(repository) = state.repositories.get(&name).filter(seen) else {
            return Answer::of(hidden);
        };
        let known = |revision: &str| revision == "main" || revision == repository.commit;
        match parts[..] {
            ["api", "models", _, _, "revision", revision] if known(revision) => {
                let file = |name: &String| serde_json::json!({"rfilename": name});
                let files: Vec<_> = repository.files.keys().map(file).collect();
                let listing = serde_json::json!({"sha": repository.commit, "siblings": files});
                Answer { body: listing.to_string().into(), ..Answer::of("200 OK") }
            }
            ["large", _, _, file] => Answer::content(&repository.files[file], request),
            [_, _, "resolve", revision, file] if known(revision) => {
                let Some(content) = repository.files.get(file) else {
                    return Answer::of("404 Not Found");
                };
                self.resolve(&name, &repository.commit, file, content, request)
            }
            _ => Answer::of("404 Not Found"),
        }
    }

    /// A file at a commit: a small one itself, a large one by the place where it is.
    fn resolve(
        &self,
        name: &str,
        commit: &str,
        file: &str,
        content: &[u8],
        request: &Request,
    ) -> Answer {
        let sha256 = base16ct::lower::encode_string(&Sha256::digest(content));
        let large = file.ends_with(".safetensors") || file.ends_with(".gguf");
        let mut answer =
            if large { Answer::of("302 Found") } else { Answer::content(content, request) };
        answer.header("x-repo-commit", commit);
        if large {
            answer.header("x-linked-etag", &format!("\"{sha256}\""));
            answer.header("x-linked-size", &content.len().to_string());
            answer.header("location", &format!("{}/large/{name}/{file}", self.url));
        } else {
            answer.header("etag", &format!("\"{}\"", &sha256[..40]));
        }
        answer
    }
}

struct Answer {
    status: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn of(status: &'static str) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// The content, or the range of it that was asked for.
    fn content(content: &[u8], request: &Request) -> Self {
        let mut answer = Self::of("200 OK");
        answer.header("accept-ranges", "bytes");
        let range = request.range.as_deref().and_then(|range| range.strip_prefix("bytes="));
        let Some((from, to)) = range.and_then(|range| range.split_once('-')) else {
            answer.body = content.to_vec();
            return answer;
        };
        let from: usize = from.parse().unwrap();
        let to = to.parse().map_or(content.len(), |to: usize| content.len().min(to + 1));
        if from >= content.len() {
            answer.status = "416 Range Not Satisfiable";
            answer.header("content-range", &format!("bytes */{}", content.len()));
            return answer;
        }
        answer.status = "206 Partial Content";
        answer.header("content-range", &format!("bytes {from}-{}/{}", to - 1, content.len()));
        answer.body = content[from..to].to_vec();
        answer
    }

    fn header(&mut self, name: &'static str, value: &str) {
        self.headers.push((name, value.to_owned()));
    }
}
