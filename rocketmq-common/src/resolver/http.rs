use super::{NameServerResolver, ResolveError, Resolving};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// The addresses that an HTTP endpoint answers: the first line of what it says to a GET, separated by `;`. Java's
/// address server is one. Plain `http` only; redirects are not followed.
///
/// ```
/// use rocketmq_common::resolver::HttpEndpoint;
///
/// let endpoint = HttpEndpoint::new("http://name-servers.example:8080/rocketmq/nsaddr").unit_name("east");
/// ```
///
/// # Protocol
/// Java: `DefaultTopAddressing`, `HttpTinyClient`; there the URL is `http://<domain>:8080/rocketmq/<subgroup>`.
#[derive(Clone, Debug)]
pub struct HttpEndpoint {
    url: Arc<str>,
    timeout: Duration,
}

impl HttpEndpoint {
    /// The endpoint at `url`, of the form `http://host[:port]/path`. Another form is an error of the look-up.
    pub fn new(url: impl Into<Arc<str>>) -> Self {
        Self { url: url.into(), timeout: Duration::from_secs(3) }
    }

    /// Asks for the name servers of a unit: appends `-<unit name>?nofix=1` to the path, as Java does for its unit name.
    #[must_use]
    pub fn unit_name(self, unit_name: &str) -> Self {
        Self { url: format!("{}-{unit_name}?nofix=1", self.url).into(), ..self }
    }

    /// The longest time for one answer, from connecting to its last byte. Default 3 s.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    async fn get(&self) -> Result<Vec<String>, ResolveError> {
        let target = Target::of(&self.url).ok_or_else(|| ResolveError::Url { url: self.url.clone() })?;
        let answer = match timeout(self.timeout, ask(&target)).await {
            Ok(answer) => answer,
            Err(_) => Err(Problem::Io(io::Error::new(io::ErrorKind::TimedOut, "no whole answer in time"))),
        };
        answer.map(|addresses| vec![addresses]).map_err(|problem| problem.at(&self.url))
    }
}

impl NameServerResolver for HttpEndpoint {
    fn resolve(&self) -> Resolving<'_> {
        Box::pin(self.get())
    }
}

/// What a URL says.
#[derive(Debug, PartialEq, Eq)]
struct Target<'a> {
    /// Host and port as the URL has them.
    authority: &'a str,
    host: &'a str,
    port: u16,
    path: &'a str,
}

impl<'a> Target<'a> {
    fn of(url: &'a str) -> Option<Self> {
        let rest = url.strip_prefix("http://")?;
        // Whatever else it holds, the request line must stay one line of three words.
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let path = path.split('#').next().unwrap_or_default();
        if authority.contains('@') || !path.is_empty() && !path.starts_with('/') {
            return None;
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
            }
            None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Ok(80), str::parse).ok().filter(|port| *port != 0)?;
        let path = if path.is_empty() { "/" } else { path };
        (!host.is_empty()).then_some(Self { authority, host, port, path })
    }
}

/// What is wrong with an endpoint.
#[derive(Debug)]
enum Problem {
    Io(io::Error),
    Status(u16),
    Answer(&'static str),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Problem {
    fn at(self, url: &Arc<str>) -> ResolveError {
        let url = url.clone();
        match self {
            Self::Io(source) => ResolveError::Http { url, source: source.into() },
            Self::Status(status) => ResolveError::Status { url, status },
            Self::Answer(problem) => ResolveError::Answer { url, problem },
        }
    }
}

/// The first line of the answer.
async fn ask(target: &Target<'_>) -> Result<String, Problem> {
    let mut stream = TcpStream::connect((target.host, target.port)).await?;
    // An answer to 1.0 does not come in chunks.
    let request = format!("GET {} HTTP/1.0\r\nHost: {}\r\nConnection: close\r\n\r\n", target.path, target.authority);
    stream.write_all(request.as_bytes()).await?;
    read_answer(&mut stream).await
}

async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> Result<String, Problem> {
    let mut answer = Vec::with_capacity(1024);
    let mut head = None;
    loop {
        if answer.len() >= MAX_ANSWER_BYTES {
            return Err(Problem::Answer("is longer than 64 KiB"));
        }
        let room = u64::try_from(MAX_ANSWER_BYTES - answer.len()).unwrap_or(u64::MAX);
        let read = (&mut *stream).take(room).read_buf(&mut answer).await?;
        if head.is_none() {
            head = read_head(&answer)?;
        }
        let whole = match &head {
            Some(Head { length, body_length: Some(body_length) }) => answer.len() - length >= *body_length,
            _ => false,
        };
        match &head {
            Some(head) if whole => return first_line(head.body(&answer)),
            Some(head) if read == 0 && head.body_length.is_none() => return first_line(head.body(&answer)),
            _ if read == 0 => return Err(Problem::Io(io::ErrorKind::UnexpectedEof.into())),
            _ => {}
        }
    }
}

/// The part of an answer before its body.
#[derive(Debug)]
struct Head {
    length: usize,
    /// As it says itself; else the body ends with the connection.
    body_length: Option<usize>,
}

impl Head {
    fn body<'a>(&self, answer: &'a [u8]) -> &'a [u8] {
        let body = answer.get(self.length..).unwrap_or_default();
        self.body_length.and_then(|length| body.get(..length)).unwrap_or(body)
    }
}

/// The head, if it is complete.
fn read_head(answer: &[u8]) -> Result<Option<Head>, Problem> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(answer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Problem::Answer("is not HTTP")),
    };
    match response.code {
        Some(200) => {}
        status => return Err(Problem::Status(status.unwrap_or(0))),
    }
    let mut body_length = None;
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(Problem::Answer("comes in chunks, which nobody asked for"));
        }
        if header.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(header.value).unwrap_or_default();
            let told = text.trim().parse().map_err(|_| Problem::Answer("has an unreadable length"))?;
            body_length = Some(told);
        }
    }
    if body_length.is_some_and(|told| told > MAX_ANSWER_BYTES - length) {
        return Err(Problem::Answer("is longer than 64 KiB"));
    }
    Ok(Some(Head { length, body_length }))
}

fn first_line(body: &[u8]) -> Result<String, Problem> {
    let text = std::str::from_utf8(body).map_err(|_| Problem::Answer("is not text"))?;
    Ok(text.trim_start().lines().next().unwrap_or_default().trim().to_owned())
}

/// Longest answer, head and body.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
const MAX_HEADERS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What an answer comes to that arrives in pieces of `piece` bytes.
    async fn read(answer: &[u8], piece: usize) -> Result<String, Problem> {
        let (mut here, mut there) = tokio::io::duplex(piece);
        let write = async {
            // A reader that has seen enough hangs up.
            let _ = there.write_all(answer).await;
            drop(there);
        };
        let reading = async {
            let result = read_answer(&mut here).await;
            drop(here);
            result
        };
        tokio::join!(reading, write).0
    }

    #[test]
    fn a_url_is_taken_apart() {
        let target = |authority, host, port, path| Some(Target { authority, host, port, path });
        assert_eq!(Target::of("http://h:8080/a/b?c=d#e"), target("h:8080", "h", 8080, "/a/b?c=d"));
        assert_eq!(Target::of("http://h"), target("h", "h", 80, "/"));
        assert_eq!(Target::of("http://[::1]:81/x"), target("[::1]:81", "::1", 81, "/x"));
        assert_eq!(Target::of("http://[::1]"), target("[::1]", "::1", 80, "/"));
        for bad in [
            "https://h/",
            "h:80/x",
            "http://",
            "http://:80/",
            "http://h:0/",
            "http://h:x/",
            "http://h/a b",
            "http://h/\r\nX: y",
            "http://u@h/",
            "http://[::1",
            "http://[::1]80/",
            "http://h?x",
        ] {
            assert_eq!(Target::of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_unit_has_a_url_of_its_own() {
        let endpoint = HttpEndpoint::new("http://h:8080/rocketmq/nsaddr").unit_name("east");
        assert_eq!(&*endpoint.url, "http://h:8080/rocketmq/nsaddr-east?nofix=1");
    }

    #[tokio::test]
    async fn the_first_line_counts() {
        let answers = [
            "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\na:1;b:2 \nc:3 and more that does not belong to it",
            "HTTP/1.0 200 OK\r\n\r\n  a:1;b:2\r\nc:3",
            "HTTP/1.1 200 \nServer: x\n\na:1;b:2",
        ];
        for answer in answers {
            for piece in [1, 7, 4096] {
                assert_eq!(read(answer.as_bytes(), piece).await.unwrap(), "a:1;b:2", "{answer} by {piece}");
            }
        }
        assert_eq!(read(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 64).await.unwrap(), "");
    }

    #[tokio::test]
    async fn answers_that_are_none_are_errors() {
        let result = read(b"HTTP/1.1 302 Found\r\nLocation: x\r\n\r\n", 64).await;
        assert!(matches!(result, Err(Problem::Status(302))));
        let told = |length: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\na:1").into_bytes();
        for (answer, problem) in [
            (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "is not HTTP"),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na:1\r\n0\r\n\r\n".to_vec(),
                "comes in chunks, which nobody asked for",
            ),
            (told("65536"), "is longer than 64 KiB"),
            (told("18446744073709551615"), "is longer than 64 KiB"),
            (told("-1"), "has an unreadable length"),
            (b"HTTP/1.1 200 OK\r\n\r\n\xff:1".to_vec(), "is not text"),
            ([b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'a'; 70_000]].concat(), "is longer than 64 KiB"),
            ([b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'a'; 70_000]].concat(), "is longer than 64 KiB"),
            ([b"HTTP/1.1 200 OK\r\n".to_vec(), b"X: y\r\n".repeat(65)].concat(), "is not HTTP"),
        ] {
            let result = read(&answer, 4096).await;
            assert!(matches!(&result, Err(Problem::Answer(found)) if *found == problem), "{problem}: {result:?}");
        }
        for cut in ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na:1"] {
            let result = read(cut.as_bytes(), 64).await;
            assert!(
                matches!(&result, Err(Problem::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof),
                "{cut}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(start in 0_usize..5, rest in proptest::collection::vec(any::<u8>(), 0..200)) {
            let starts = ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: ",
                "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"];
            let answer = [starts[start].as_bytes(), &rest].concat();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(read(&answer, 64));
        }
    }
}
