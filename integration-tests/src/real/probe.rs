//! Asks a name server which brokers it knows, by a frame written by hand: the client is what the tests are about, so
//! whether a cluster is ready must not depend on it.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const LIMIT: Duration = Duration::from_secs(3);
const LONGEST_REPLY: u32 = 4 * 1024 * 1024;

/// `GET_ROUTEINFO_BY_TOPIC` for the topic that every broker makes for itself, whatever its configuration. The last
/// field asks for a body that is JSON to everyone: without it the numbers that are keys are not quoted.
const ROUTE_LOOK_UP: &str = r#"{"code":105,"language":"OTHER","version":0,"opaque":1,"flag":0,"serializeTypeCurrentRPC":"JSON","extFields":{"topic":"SELF_TEST_TOPIC","acceptStandardJsonOnly":"true"}}"#;

/// Whether anyone listens there.
pub(super) async fn accepts(address: &str) -> bool {
    matches!(timeout(LIMIT, TcpStream::connect(address)).await, Ok(Ok(_)))
}

/// The addresses of the masters that the name server knows, ordered by broker name.
pub(super) async fn brokers(name_server: &str) -> Result<Vec<String>> {
    let body = match timeout(LIMIT, look_up(name_server)).await {
        Ok(answer) => answer.with_context(|| format!("name server {name_server} tells no route"))?,
        Err(_) => bail!("name server {name_server} does not answer in {LIMIT:?}"),
    };
    Ok(masters(&body))
}

/// Whether the name server knows a broker or a replica of one at `address`.
pub(super) async fn knows(name_server: &str, address: &str) -> Result<bool> {
    let route = timeout(LIMIT, look_up(name_server)).await.context("no answer in time")??;
    Ok(route.contains(&format!("\"{address}\"")))
}

/// Frame: total length (without itself), head length with the head's kind (0, JSON) in the top byte, head, body.
async fn look_up(name_server: &str) -> Result<String> {
    let mut stream = TcpStream::connect(name_server).await?;
    let head_length = u32::try_from(ROUTE_LOOK_UP.len())?;
    stream.write_u32(4 + head_length).await?;
    stream.write_u32(head_length).await?;
    stream.write_all(ROUTE_LOOK_UP.as_bytes()).await?;

    let length = stream.read_u32().await?;
    ensure!((4..=LONGEST_REPLY).contains(&length), "a reply of {length} bytes");
    let mut reply = vec![0; usize::try_from(length)?];
    stream.read_exact(&mut reply).await?;
    let (head_length, rest) = reply.split_first_chunk().context("no head length")?;
    let head_length = usize::try_from(u32::from_be_bytes(*head_length) & 0x00ff_ffff)?;
    let (head, body) = rest.split_at_checked(head_length).context("the head is longer than the frame")?;
    let head = String::from_utf8_lossy(head);
    ensure!([r#""code":0,"#, r#""code":0}"#].iter().any(|done| head.contains(done)), "refused: {head}");
    Ok(String::from_utf8_lossy(body).into_owned())
}

/// Picks each broker's address number 0, its master, out of a route.
fn masters(route: &str) -> Vec<String> {
    let mut found: Vec<(&str, &str)> = route
        .split(r#""brokerAddrs":{"#)
        .skip(1)
        .filter_map(|broker| Some((between(broker, r#""brokerName":""#)?, between(broker, r#""0":""#)?)))
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, address)| address.to_owned()).collect()
}

/// The rest of the string that starts with `start`.
fn between<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(start)?;
    Some(rest.split_once('"')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_come_in_the_order_of_broker_names() {
        let route = concat!(
            r#"{"brokerDatas":[{"brokerAddrs":{"0":"127.0.0.1:10921","1":"127.0.0.1:10931"},"brokerName":"broker-b","#,
            r#""cluster":"DefaultCluster"},{"brokerAddrs":{"0":"127.0.0.1:10911"},"brokerName":"broker-a","#,
            r#""cluster":"DefaultCluster"},{"brokerAddrs":{"1":"127.0.0.1:10941"},"brokerName":"broker-c"}],"#,
            r#""filterServerTable":{},"queueDatas":[{"brokerName":"broker-a","perm":6}]}"#,
        );
        assert_eq!(masters(route), ["127.0.0.1:10911", "127.0.0.1:10921"]);
    }
}
