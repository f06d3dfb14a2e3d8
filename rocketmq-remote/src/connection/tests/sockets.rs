//! Over real sockets.

use super::*;

/// Echoes on loopback, in any order, for as long as the set lives; one request in `lost` is never answered.
async fn server(addr: &str, lost: i64) -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind((addr, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let processors = Processors::new().on(RequestCode::GET_MAX_OFFSET, move |incoming| {
        let request = incoming.command();
        if number_of(request) % lost != lost - 1 {
            incoming.answer_with(echo_of(request)).unwrap();
        }
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.push(Connection::accept(stream, ConnectionOptions::default(), processors.clone()).unwrap());
        }
    });
    (port, tasks)
}

async fn dial(addr: &str) -> Result<Connection, Error> {
    Connection::dial(addr, ConnectionOptions::default(), Processors::new()).await
}

#[tokio::test]
async fn an_ipv4_address_is_dialled() {
    let (port, _server) = server("127.0.0.1", i64::MAX).await;
    assert_eq!(ask(&dial(&format!("127.0.0.1:{port}")).await.unwrap(), 1).await.unwrap(), 1);
}

#[tokio::test]
async fn an_ipv6_address_is_dialled_with_and_without_brackets() {
    let (port, _server) = server("::1", i64::MAX).await;
    assert_eq!(ask(&dial(&format!("[::1]:{port}")).await.unwrap(), 1).await.unwrap(), 1);
    assert_eq!(ask(&dial(&format!("::1:{port}")).await.unwrap(), 2).await.unwrap(), 2);
}

#[tokio::test]
async fn a_host_name_is_dialled_whichever_of_its_addresses_listens() {
    let (port, _server) = server("127.0.0.1", i64::MAX).await;
    let connection = dial(&format!("localhost:{port}")).await.unwrap();
    assert_eq!(&**connection.addr(), format!("localhost:{port}"));
    assert_eq!(ask(&connection, 1).await.unwrap(), 1);
}

#[tokio::test]
async fn a_port_nobody_listens_on_is_an_error_with_the_address() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let addr = format!("127.0.0.1:{port}");
    let error = dial(&addr).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot connect to {addr}"));
    assert!(matches!(error, Error::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused));
}

#[tokio::test]
async fn what_is_no_address_is_a_typed_error() {
    for addr in ["", "host", "host:", ":1", "host:0", "host:65536", "host:port"] {
        assert!(matches!(dial(addr).await, Err(Error::Address { .. })), "{addr}");
    }
}

#[tokio::test]
async fn the_end_of_a_dialled_connection_is_noticed_by_the_one_who_accepted_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let (client, accepted) = tokio::join!(dial(&addr), listener.accept());
    let accepted = Connection::accept(accepted.unwrap().0, ConnectionOptions::default(), Processors::new()).unwrap();
    let waiting = queue(&accepted, 1).await;
    client.unwrap().close(within(5 * SECOND)).await;
    assert!(matches!(waiting.await, Err(Error::Refused { .. } | Error::Closed { .. })));
    accepted.ended().await;
}

fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

/// 64 callers, 20,000 calls and one-way requests of all sizes; some are dropped at any moment, some never answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_stress_every_caller_gets_its_own_answer_and_nothing_is_left_over() {
    let (port, _server) = server("127.0.0.1", 997).await;
    let options = ConnectionOptions { max_calls: 40, max_queued_bytes: 64 * 1024, ..Default::default() };
    let connection = Connection::dial(&format!("127.0.0.1:{port}"), options, Processors::new()).await.unwrap();
    let mut callers = JoinSet::new();
    for caller in 0..64 {
        let connection = connection.clone();
        callers.spawn(async move {
            let (mut seed, mut answered) = (0x9e37_79b9_7f4a_7c15_u64 + caller, 0);
            for _ in 0..313 {
                let number = i64::try_from(random(&mut seed) >> 1).unwrap();
                let size = usize::try_from(random(&mut seed) % 200).unwrap();
                let body = Bytes::from(vec![7; if size == 0 { 100_000 } else { size }]);
                let lost = number % 997 == 996;
                let limit = if lost { Duration::from_millis(20) } else { 20 * SECOND };
                let request = Ask { number };
                let call = connection.call(&request, body.clone(), within(limit));
                match random(&mut seed) % 8 {
                    0 => drop(timeout(Duration::from_micros(random(&mut seed) % 500), call).await),
                    1 => drop(connection.call_async(&request, body, within(limit)).await),
                    2 => connection.call_oneway(&request, body, within(20 * SECOND)).await.unwrap(),
                    _ => match call.await {
                        Ok(answer) => {
                            assert_eq!((answer.header.number, answer.body), (number, body));
                            answered += 1;
                        }
                        Err(error) => assert!(lost, "{error:?}"),
                    },
                }
            }
            answered
        });
    }
    let answered: i32 = callers.join_all().await.into_iter().sum();
    assert!(answered > 10_000, "{answered} answers");
    // A last round trip: all that was queued before it has been written.
    ask(&connection, 1).await.unwrap();
    // A call's permit comes back a moment after its caller has been told.
    let shared = &connection.0.shared;
    timeout(5 * SECOND, async {
        while shared.bytes.available_permits() < 64 * 1024 || shared.calls.available_permits() < 40 {
            yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_at_rest(&connection);
    connection.close(within(5 * SECOND)).await;
}
