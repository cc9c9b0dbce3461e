//! Every directive of nginx that is known here: where it may stand, its arguments, its fate.
//!
//! From the reference at nginx.org. What is not in this list is refused as unknown.

use super::directives::Fate::{Dropped, Kept, OnlyWith, Refused};
use super::directives::{Blocks, EVENTS, Fate, HTTP, LOCATION, MAIN, Row, SERVER, UPSTREAM};

const ANY: usize = usize::MAX;
/// Blocks whose settings are inherited from the outer to the inner.
const HSL: Blocks = HTTP | SERVER | LOCATION;
const HS: Blocks = HTTP | SERVER;
const SL: Blocks = SERVER | LOCATION;

const STREAMS: &str = "bodies are passed on as they come, and never written to disk";
const NO_CACHE: &str = "there is no cache; let a cache before or behind Tidegate do it";
const BUFFERS: &str = "buffers are sized by Tidegate itself";
const KERNEL: &str = "a choice about system calls that Tidegate makes itself";
const TABLES: &str = "tables grow as they need to";
const OTHER_PROTOCOL: &str = "services are spoken to in HTTP/1.1; put one that does before it";
const CREDENTIALS: &str = "let a plugin or the service ask for credentials";
const RATES: &str = "let a plugin count (it may keep state), or the service";
const ADDRESSES: &str = "let a plugin or a firewall refuse addresses";
const COMPRESSION: &str = "responses are passed on as services compress them; files may be \
                           compressed beforehand";
const REWRITES: &str = "write a `location` for each case, with `return` or a URI in `proxy_pass`";
const SCRIPTS: &str = "write a plugin instead";
const CIPHERS: &str = "TLS 1.2 and 1.3 with forward secret AEAD ciphers are all there is";
const SESSIONS: &str =
    "TLS sessions are resumed by tickets, with keys that never leave the process";
const PLAIN_TLS: &str = "write an [upstreams.NAME] with `tls` by hand; see tidegate.example.toml";

/// A directive that is translated.
const fn kept(name: &'static str, blocks: Blocks, least: usize, most: usize) -> Row {
    row(name, blocks, least, most, Kept)
}

/// A directive that is translated and may stand once in a block.
const fn single(name: &'static str, blocks: Blocks, least: usize, most: usize) -> Row {
    Row {
        is_single: true,
        ..row(name, blocks, least, most, Kept)
    }
}

/// A block that is translated.
const fn block(name: &'static str, blocks: Blocks, least: usize, most: usize) -> Row {
    Row {
        has_block: true,
        ..row(name, blocks, least, most, Kept)
    }
}

const fn row(name: &'static str, blocks: Blocks, least: usize, most: usize, fate: Fate) -> Row {
    Row {
        name,
        blocks,
        arguments: (least, most),
        has_block: false,
        is_single: false,
        fate,
    }
}

const fn dropped(name: &'static str, blocks: Blocks, why: &'static str) -> Row {
    row(name, blocks, 1, ANY, Dropped(why))
}

const fn refused(name: &'static str, blocks: Blocks, hint: &'static str) -> Row {
    row(name, blocks, 1, ANY, Refused(hint))
}

const fn refused_bare(name: &'static str, blocks: Blocks, hint: &'static str) -> Row {
    row(name, blocks, 0, ANY, Refused(hint))
}

const fn refused_block(name: &'static str, blocks: Blocks, hint: &'static str) -> Row {
    Row {
        has_block: true,
        ..row(name, blocks, 0, ANY, Refused(hint))
    }
}

const fn only_with(
    argument: &'static str,
    name: &'static str,
    blocks: Blocks,
    hint: &'static str,
) -> Row {
    row(name, blocks, 1, ANY, OnlyWith(argument, hint))
}

pub(super) const ROWS: &[Row] = &[
    // The process.
    block("events", MAIN, 0, 0),
    block("http", MAIN, 0, 0),
    single("worker_processes", MAIN, 1, 1),
    dropped("user", MAIN, "start Tidegate as the user it shall be"),
    dropped(
        "pid",
        MAIN,
        "there is no pid file; whoever starts Tidegate knows its pid",
    ),
    dropped("daemon", MAIN, "Tidegate stays in the foreground"),
    dropped("master_process", MAIN, "workers are threads of one process"),
    dropped(
        "error_log",
        MAIN | HSL,
        "the log goes to standard error; --log sets its level",
    ),
    dropped(
        "load_module",
        MAIN,
        "what a module adds is judged directive by directive",
    ),
    dropped("pcre_jit", MAIN, "patterns are compiled in any case"),
    dropped(
        "worker_rlimit_nofile",
        MAIN,
        "the limit is raised as far as the system allows",
    ),
    dropped(
        "worker_rlimit_core",
        MAIN,
        "set it where Tidegate is started",
    ),
    dropped(
        "worker_cpu_affinity",
        MAIN,
        "threads are placed by the system",
    ),
    dropped("worker_priority", MAIN, "set it where Tidegate is started"),
    dropped(
        "worker_shutdown_timeout",
        MAIN,
        "timeouts.drain says how long a stop may take",
    ),
    dropped("timer_resolution", MAIN, "clocks are read as needed"),
    dropped("lock_file", MAIN, "workers share no lock"),
    dropped("ssl_engine", MAIN, "there is one implementation of TLS"),
    dropped(
        "working_directory",
        MAIN,
        "set it where Tidegate is started",
    ),
    dropped("env", MAIN, "the environment is not changed"),
    refused_block(
        "stream",
        MAIN,
        "Tidegate proxies HTTP and what begins as HTTP",
    ),
    refused_block(
        "mail",
        MAIN,
        "Tidegate proxies HTTP and what begins as HTTP",
    ),
    dropped(
        "worker_connections",
        EVENTS,
        "limits.max_connections bounds clients alone",
    ),
    dropped("use", EVENTS, KERNEL),
    dropped("multi_accept", EVENTS, KERNEL),
    dropped("accept_mutex", EVENTS, KERNEL),
    dropped("accept_mutex_delay", EVENTS, KERNEL),
    dropped("debug_connection", EVENTS, "--log sets what is logged"),
    // Servers and locations.
    block("server", HTTP | UPSTREAM, 0, ANY),
    kept("listen", SERVER, 1, ANY),
    kept("server_name", SERVER, 1, ANY),
    block("location", SL, 1, 2),
    single("root", HSL, 1, 1),
    single("alias", LOCATION, 1, 1),
    single("index", HSL, 1, ANY),
    single("expires", HSL, 1, 2),
    kept("return", SL, 1, 2),
    kept("add_header", HSL, 2, 3),
    block("types", HSL, 0, 0),
    single("default_type", HSL, 1, 1),
    single("try_files", SL, 2, ANY),
    single("charset", HSL, 1, 1),
    single("disable_symlinks", HSL, 1, 2),
    single("if_modified_since", HSL, 1, 1),
    single("gzip_static", HSL, 1, 1),
    single("brotli_static", HSL, 1, 1),
    single("client_max_body_size", HSL, 1, 1),
    single("client_header_timeout", HS, 1, 1),
    single("client_body_timeout", HSL, 1, 1),
    single("send_timeout", HSL, 1, 1),
    single("large_client_header_buffers", HS, 2, 2),
    kept("access_log", HSL, 1, ANY),
    kept("log_format", HTTP, 2, ANY),
    block("map", HTTP, 2, 2),
    dropped("server_tokens", HSL, "`Server` is not nginx"),
    only_with(
        "on",
        "merge_slashes",
        HS,
        "slashes are merged to find a location",
    ),
    dropped(
        "http2",
        HS,
        "what clients may speak is agreed on in the TLS handshake",
    ),
    dropped(
        "resolver",
        HSL | UPSTREAM,
        "names are looked up as the system is set up",
    ),
    dropped(
        "resolver_timeout",
        HSL | UPSTREAM,
        "names are looked up as the system is set up",
    ),
    dropped("client_body_buffer_size", HSL, STREAMS),
    dropped("client_body_temp_path", HSL, STREAMS),
    dropped("client_body_in_single_buffer", HSL, STREAMS),
    only_with("off", "client_body_in_file_only", HSL, STREAMS),
    dropped("client_header_buffer_size", HS, BUFFERS),
    dropped("connection_pool_size", HS, BUFFERS),
    dropped("request_pool_size", HS, BUFFERS),
    dropped("output_buffers", HSL, BUFFERS),
    dropped("postpone_output", HSL, BUFFERS),
    dropped("sendfile", HSL, KERNEL),
    dropped("sendfile_max_chunk", HSL, KERNEL),
    dropped("tcp_nopush", HSL, KERNEL),
    dropped(
        "tcp_nodelay",
        HSL,
        "small writes are sent at once, as with `on`",
    ),
    dropped("aio", HSL, KERNEL),
    dropped("directio", HSL, KERNEL),
    dropped("read_ahead", HSL, KERNEL),
    dropped("send_lowat", HSL, KERNEL),
    dropped("reset_timedout_connection", HSL, KERNEL),
    dropped(
        "lingering_close",
        HSL,
        "what is left unread is read for a moment before the close",
    ),
    dropped(
        "lingering_time",
        HSL,
        "what is left unread is read for a moment before the close",
    ),
    dropped(
        "lingering_timeout",
        HSL,
        "what is left unread is read for a moment before the close",
    ),
    dropped(
        "open_file_cache",
        HSL,
        "files are looked up as they are asked for",
    ),
    dropped(
        "open_file_cache_errors",
        HSL,
        "files are looked up as they are asked for",
    ),
    dropped(
        "open_file_cache_min_uses",
        HSL,
        "files are looked up as they are asked for",
    ),
    dropped(
        "open_file_cache_valid",
        HSL,
        "files are looked up as they are asked for",
    ),
    dropped("open_log_file_cache", HSL, "the access log is kept open"),
    dropped(
        "log_not_found",
        HSL,
        "missing files are in the access log alone",
    ),
    dropped("log_subrequest", HSL, "there are no subrequests"),
    dropped(
        "keepalive_requests",
        HSL | UPSTREAM,
        "connections are not closed by a count",
    ),
    dropped(
        "keepalive_time",
        HSL | UPSTREAM,
        "connections are not closed by their age",
    ),
    dropped("keepalive_disable", HSL, "no browser of today needs it"),
    dropped("types_hash_max_size", HSL, TABLES),
    dropped("types_hash_bucket_size", HSL, TABLES),
    dropped("server_names_hash_max_size", HTTP, TABLES),
    dropped("server_names_hash_bucket_size", HTTP, TABLES),
    dropped("variables_hash_max_size", HTTP, TABLES),
    dropped("variables_hash_bucket_size", HTTP, TABLES),
    dropped("map_hash_max_size", HTTP, TABLES),
    dropped("map_hash_bucket_size", HTTP, TABLES),
    dropped("proxy_headers_hash_max_size", HSL, TABLES),
    dropped("proxy_headers_hash_bucket_size", HSL, TABLES),
    single("underscores_in_headers", HS, 1, 1),
    single("ignore_invalid_headers", HS, 1, 1),
    only_with(
        "off",
        "server_name_in_redirect",
        HSL,
        "write the host into `return`",
    ),
    only_with(
        "on",
        "port_in_redirect",
        HSL,
        "write the address into `return`",
    ),
    single("absolute_redirect", HSL, 1, 1),
    only_with("off", "recursive_error_pages", HSL, REWRITES),
    only_with("on", "etag", HSL, "files have an ETag"),
    only_with("off", "chunked_transfer_encoding", HSL, "HTTP/1.1 needs it"),
    only_with("off", "msie_padding", HSL, "no browser of today needs it"),
    only_with("off", "msie_refresh", HSL, "no browser of today needs it"),
    only_with("off", "autoindex", HSL, "folders are not listed"),
    refused(
        "charset_types",
        HSL,
        "nginx's own list of types gets a charset",
    ),
    refused(
        "error_page",
        HSL,
        "errors are answered with a short text; a plugin may replace it",
    ),
    refused_bare("internal", LOCATION, "nothing refers to a location here"),
    refused("satisfy", HSL, CREDENTIALS),
    refused_block("limit_except", LOCATION, "let a plugin refuse methods"),
    refused("limit_rate", HSL, "there is no limit on speed"),
    refused("limit_rate_after", HSL, "there is no limit on speed"),
    // TLS.
    single("ssl_certificate", HS, 1, 1),
    single("ssl_certificate_key", HS, 1, 1),
    single("ssl_protocols", HS, 1, ANY),
    only_with("off", "ssl", HS, "write `listen 443 ssl;`"),
    dropped("ssl_ciphers", HS, CIPHERS),
    dropped("ssl_prefer_server_ciphers", HS, CIPHERS),
    dropped(
        "ssl_dhparam",
        HS,
        "DHE is not used; key exchange is by elliptic curves",
    ),
    dropped(
        "ssl_ecdh_curve",
        HS,
        "the curves of rustls: X25519, P-256 and P-384",
    ),
    dropped(
        "ssl_conf_command",
        HS,
        "it configures OpenSSL, which is not used",
    ),
    dropped("ssl_session_cache", HS, SESSIONS),
    dropped("ssl_session_timeout", HS, SESSIONS),
    dropped("ssl_session_tickets", HS, SESSIONS),
    dropped("ssl_session_ticket_key", HS, SESSIONS),
    dropped("ssl_buffer_size", HS, BUFFERS),
    dropped(
        "ssl_stapling",
        HS,
        "no OCSP answer is stapled; clients go on without",
    ),
    dropped(
        "ssl_stapling_verify",
        HS,
        "no OCSP answer is stapled; clients go on without",
    ),
    dropped(
        "ssl_trusted_certificate",
        HS,
        "it serves stapling and client certificates alone",
    ),
    only_with("off", "ssl_early_data", HS, "early data could be replayed"),
    only_with(
        "off",
        "ssl_verify_client",
        HS,
        "clients are not asked for certificates",
    ),
    only_with(
        "off",
        "ssl_reject_handshake",
        HS,
        "write a server with a certificate",
    ),
    refused(
        "ssl_client_certificate",
        HS,
        "clients are not asked for certificates",
    ),
    refused("ssl_crl", HS, "clients are not asked for certificates"),
    refused("ssl_password_file", HS, "keys are read without a password"),
    // Services.
    block("upstream", HTTP, 1, 1),
    kept("ip_hash", UPSTREAM, 0, 0),
    kept("least_conn", UPSTREAM, 0, 0),
    kept("hash", UPSTREAM, 1, 2),
    kept("random", UPSTREAM, 0, 2),
    single("keepalive", UPSTREAM, 1, 2),
    single("keepalive_timeout", HSL | UPSTREAM, 1, 2),
    dropped(
        "zone",
        UPSTREAM,
        "workers share what they know of endpoints in any case",
    ),
    kept("sticky", UPSTREAM, 1, ANY),
    refused("least_time", UPSTREAM, "use `least_conn`"),
    refused(
        "queue",
        UPSTREAM,
        "requests that find no endpoint are answered at once",
    ),
    refused_bare(
        "ntlm",
        UPSTREAM,
        "connections to services are shared by clients",
    ),
    refused("state", UPSTREAM, "write the servers into the file"),
    single("proxy_pass", LOCATION, 1, 1),
    kept("proxy_set_header", HSL, 2, 2),
    single("proxy_http_version", HSL, 1, 1),
    single("proxy_connect_timeout", HSL, 1, 1),
    single("proxy_send_timeout", HSL, 1, 1),
    single("proxy_read_timeout", HSL, 1, 1),
    single("proxy_ignore_client_abort", HSL, 1, 1),
    kept("proxy_redirect", HSL, 1, 2),
    kept("proxy_cookie_domain", HSL, 1, 2),
    kept("proxy_cookie_path", HSL, 1, 2),
    kept("proxy_hide_header", HSL, 1, 1),
    kept("proxy_pass_header", HSL, 1, 1),
    single("proxy_next_upstream", HSL, 1, ANY),
    single("proxy_next_upstream_tries", HSL, 1, 1),
    single("proxy_next_upstream_timeout", HSL, 1, 1),
    single("proxy_ssl_server_name", HSL, 1, 1),
    single("proxy_ssl_name", HSL, 1, 1),
    single("proxy_ssl_verify", HSL, 1, 1),
    single("proxy_ssl_trusted_certificate", HSL, 1, 1),
    dropped("proxy_ssl_protocols", HSL, CIPHERS),
    dropped("proxy_ssl_ciphers", HSL, CIPHERS),
    dropped(
        "proxy_ssl_session_reuse",
        HSL,
        "sessions are resumed, as with `on`",
    ),
    dropped(
        "proxy_ssl_verify_depth",
        HSL,
        "chains are verified to their root, however long",
    ),
    refused("proxy_ssl_certificate", HSL, PLAIN_TLS),
    refused("proxy_ssl_certificate_key", HSL, PLAIN_TLS),
    dropped("proxy_buffering", HSL, STREAMS),
    dropped("proxy_request_buffering", HSL, STREAMS),
    dropped("proxy_buffers", HSL, BUFFERS),
    dropped("proxy_buffer_size", HSL, BUFFERS),
    dropped("proxy_busy_buffers_size", HSL, BUFFERS),
    dropped("proxy_max_temp_file_size", HSL, STREAMS),
    dropped("proxy_temp_file_write_size", HSL, STREAMS),
    dropped("proxy_temp_path", HSL, STREAMS),
    dropped("proxy_socket_keepalive", HSL, KERNEL),
    dropped("proxy_send_lowat", HSL, KERNEL),
    only_with(
        "off",
        "proxy_intercept_errors",
        HSL,
        "answers of services are passed on as they are",
    ),
    only_with("off", "proxy_cache", HSL, NO_CACHE),
    only_with("off", "proxy_store", HSL, NO_CACHE),
    dropped("proxy_cache_bypass", HSL, NO_CACHE),
    dropped("proxy_no_cache", HSL, NO_CACHE),
    dropped("proxy_cache_valid", HSL, NO_CACHE),
    refused("proxy_cache_path", HTTP, NO_CACHE),
    only_with(
        "on",
        "proxy_pass_request_headers",
        HSL,
        "fields of requests are passed on",
    ),
    only_with(
        "on",
        "proxy_pass_request_body",
        HSL,
        "bodies of requests are passed on",
    ),
    only_with(
        "off",
        "proxy_force_ranges",
        HSL,
        "ranges are the service's business",
    ),
    refused("proxy_method", HSL, "methods are passed on as they came"),
    refused(
        "proxy_set_body",
        HSL,
        "let a plugin answer or change the request",
    ),
    refused(
        "proxy_bind",
        HSL,
        "connections leave by the address the system chooses",
    ),
    refused("proxy_limit_rate", HSL, "there is no limit on speed"),
    refused(
        "proxy_ignore_headers",
        HSL,
        "fields that direct nginx have no effect here; leave it out",
    ),
    refused("proxy_cookie_flags", HSL, "let a plugin change the cookie"),
    // Modules whose work would be lost.
    refused_block(
        "if",
        SL,
        "write a `map` and use its variable, or a `location` for each case",
    ),
    refused("rewrite", SL, REWRITES),
    refused(
        "set",
        SL,
        "write a `map`, or the value where the variable is used",
    ),
    refused_bare("break", SL, REWRITES),
    only_with("off", "rewrite_log", HSL, REWRITES),
    only_with("off", "gzip", HSL, COMPRESSION),
    dropped("gzip_types", HSL, COMPRESSION),
    dropped("gzip_vary", HSL, COMPRESSION),
    dropped("gzip_proxied", HSL, COMPRESSION),
    dropped("gzip_comp_level", HSL, COMPRESSION),
    dropped("gzip_buffers", HSL, COMPRESSION),
    dropped("gzip_http_version", HSL, COMPRESSION),
    dropped("gzip_min_length", HSL, COMPRESSION),
    dropped("gzip_disable", HSL, COMPRESSION),
    only_with("off", "gunzip", HSL, COMPRESSION),
    only_with("off", "brotli", HSL, COMPRESSION),
    only_with("off", "auth_basic", HSL, CREDENTIALS),
    dropped(
        "auth_basic_user_file",
        HSL,
        "it has no effect without `auth_basic`",
    ),
    only_with("off", "auth_request", HSL, CREDENTIALS),
    refused("auth_jwt", HSL, CREDENTIALS),
    only_with("all", "allow", HSL, ADDRESSES),
    refused("deny", HSL, ADDRESSES),
    refused("limit_req", HSL, RATES),
    refused("limit_req_zone", HTTP, RATES),
    dropped(
        "limit_req_status",
        HSL,
        "it has no effect without `limit_req`",
    ),
    dropped(
        "limit_req_log_level",
        HSL,
        "it has no effect without `limit_req`",
    ),
    refused("limit_conn", HSL, RATES),
    refused("limit_conn_zone", HTTP, RATES),
    dropped(
        "limit_conn_status",
        HSL,
        "it has no effect without `limit_conn`",
    ),
    dropped(
        "limit_conn_log_level",
        HSL,
        "it has no effect without `limit_conn`",
    ),
    refused(
        "set_real_ip_from",
        HSL,
        "$remote_addr is the peer's address; put Tidegate first",
    ),
    refused(
        "real_ip_header",
        HSL,
        "$remote_addr is the peer's address; put Tidegate first",
    ),
    dropped(
        "real_ip_recursive",
        HSL,
        "it has no effect without `set_real_ip_from`",
    ),
    refused_block("geo", HTTP, "write a `map` of what is known of the request"),
    refused_block(
        "split_clients",
        HTTP,
        "weights of an `upstream` share requests out",
    ),
    refused_block("match", HTTP, "health checks are settings of an upstream"),
    refused(
        "health_check",
        LOCATION,
        "health checks are settings of an upstream",
    ),
    refused(
        "geoip_country",
        HTTP,
        "let a service or a plugin know places",
    ),
    refused("geoip_city", HTTP, "let a service or a plugin know places"),
    refused("add_trailer", HSL, "let a plugin change the response"),
    refused("add_before_body", HSL, "let a plugin change the response"),
    refused("add_after_body", HSL, "let a plugin change the response"),
    refused("sub_filter", HSL, "let a plugin change the response"),
    refused("mirror", HSL, "requests go to one endpoint"),
    only_with("off", "ssi", HSL, "let the service put pages together"),
    refused_bare("stub_status", SL, "[admin] has /metrics"),
    refused("random_index", LOCATION, "an index has one name"),
    refused("secure_link", HSL, SCRIPTS),
    refused("js_import", HTTP, SCRIPTS),
    refused("js_content", LOCATION, SCRIPTS),
    refused("js_set", HTTP, SCRIPTS),
    refused("perl", LOCATION, SCRIPTS),
    refused("perl_modules", HTTP, SCRIPTS),
    refused_block("content_by_lua_block", SL, SCRIPTS),
    refused_block("access_by_lua_block", HSL, SCRIPTS),
    refused_block("rewrite_by_lua_block", HSL, SCRIPTS),
    refused("userid", HSL, "let the service set its cookies"),
    refused("dav_methods", HSL, "files are read and not written"),
    refused_bare("flv", LOCATION, "files are sent as they are"),
    refused_bare("mp4", LOCATION, "files are sent as they are"),
    refused_bare("empty_gif", LOCATION, "write a file"),
    refused("fastcgi_pass", LOCATION, OTHER_PROTOCOL),
    refused("uwsgi_pass", LOCATION, OTHER_PROTOCOL),
    refused("scgi_pass", LOCATION, OTHER_PROTOCOL),
    refused("grpc_pass", LOCATION, OTHER_PROTOCOL),
    refused("memcached_pass", LOCATION, OTHER_PROTOCOL),
    dropped(
        "fastcgi_param",
        HSL,
        "it has no effect without `fastcgi_pass`",
    ),
    dropped(
        "fastcgi_index",
        HSL,
        "it has no effect without `fastcgi_pass`",
    ),
    dropped("uwsgi_param", HSL, "it has no effect without `uwsgi_pass`"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_directive_is_listed_twice() {
        for (index, row) in ROWS.iter().enumerate() {
            let twin = ROWS[..index].iter().find(|other| other.name == row.name);
            assert!(twin.is_none(), "{}", row.name);
        }
    }
}
