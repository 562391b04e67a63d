//! `tcp-client HOST:PORT [LINE]`: resolves the host when it is a name, sends a line, prints the line that comes
//! back. Exits 1 with the reason when the host does not allow the connection.
//! (A WASI 0.2 command has no other code: `wasi:cli/exit` knows ok and err.)
//!
//! It speaks `wasi:sockets` itself, which any Rust toolchain can link.
//! `std::net::TcpStream` does the same in one line where the target's libc has
//! sockets, as rustup's wasm32-wasip2 has.

use std::net::SocketAddr;
use std::process::ExitCode;

use wasip2::io::streams::StreamError;
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
};
use wasip2::sockets::tcp_create_socket::create_tcp_socket;

/// What the guest could not do, and what the host said.
struct Failure(&'static str, String);

impl Failure {
    fn socket(what: &'static str) -> impl Fn(ErrorCode) -> Failure {
        move |code| Failure(what, code.name().into())
    }

    fn stream(what: &'static str) -> impl Fn(StreamError) -> Failure {
        move |error| match error {
            StreamError::Closed => Failure(what, "closed".into()),
            StreamError::LastOperationFailed(error) => Failure(what, error.to_debug_string()),
        }
    }
}

/// The first address of `HOST:PORT`; none when that is not what it is.
fn resolve(target: &str) -> Result<Option<SocketAddr>, Failure> {
    if let Ok(address) = target.parse() {
        return Ok(Some(address));
    }
    let Some((host, port)) = target.rsplit_once(':') else {
        return Ok(None);
    };
    let Ok(port) = port.parse::<u16>() else {
        return Ok(None);
    };
    let answers =
        resolve_addresses(&instance_network(), host).map_err(Failure::socket("resolve"))?;
    loop {
        match answers.resolve_next_address() {
            Err(ErrorCode::WouldBlock) => answers.subscribe().block(),
            Ok(Some(IpAddress::Ipv4((a, b, c, d)))) => {
                return Ok(Some(SocketAddr::from(([a, b, c, d], port))));
            }
            Ok(Some(IpAddress::Ipv6((a, b, c, d, e, f, g, h)))) => {
                return Ok(Some(SocketAddr::from(([a, b, c, d, e, f, g, h], port))));
            }
            Ok(None) => return Ok(None),
            Err(code) => return Err(Failure::socket("resolve")(code)),
        }
    }
}

fn talk(address: SocketAddr, line: &str) -> Result<Vec<u8>, Failure> {
    let (family, remote) = match address {
        SocketAddr::V4(v4) => {
            let [a, b, c, d] = v4.ip().octets();
            let address = Ipv4SocketAddress {
                port: v4.port(),
                address: (a, b, c, d),
            };
            (IpAddressFamily::Ipv4, IpSocketAddress::Ipv4(address))
        }
        SocketAddr::V6(v6) => {
            let [a, b, c, d, e, f, g, h] = v6.ip().segments();
            let address = Ipv6SocketAddress {
                port: v6.port(),
                flow_info: v6.flowinfo(),
                address: (a, b, c, d, e, f, g, h),
                scope_id: v6.scope_id(),
            };
            (IpAddressFamily::Ipv6, IpSocketAddress::Ipv6(address))
        }
    };
    let socket = create_tcp_socket(family).map_err(Failure::socket("create a socket"))?;
    socket
        .start_connect(&instance_network(), remote)
        .map_err(Failure::socket("connect"))?;
    let (input, output) = loop {
        match socket.finish_connect() {
            Err(ErrorCode::WouldBlock) => socket.subscribe().block(),
            done => break done.map_err(Failure::socket("connect"))?,
        }
    };
    output
        .blocking_write_and_flush(format!("{line}\n").as_bytes())
        .map_err(Failure::stream("send"))?;
    let mut reply = Vec::new();
    while !reply.ends_with(b"\n") {
        match input.blocking_read(4096) {
            Ok(bytes) => reply.extend(bytes),
            Err(StreamError::Closed) => break,
            Err(error) => return Err(Failure::stream("receive")(error)),
        }
    }
    Ok(reply)
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let target = args.next().unwrap_or_default();
    let line = args.next().unwrap_or_else(|| "hello".into());
    let answer = match resolve(&target) {
        Ok(Some(address)) => talk(address, &line),
        Ok(None) => {
            eprintln!("usage: tcp-client HOST:PORT [LINE]");
            return ExitCode::FAILURE;
        }
        Err(failure) => Err(failure),
    };
    match answer {
        Ok(reply) => {
            print!("{}", String::from_utf8_lossy(&reply));
            ExitCode::SUCCESS
        }
        Err(Failure(what, why)) => {
            eprintln!("tcp-client: {target}: cannot {what}: {why}");
            ExitCode::FAILURE
        }
    }
}
