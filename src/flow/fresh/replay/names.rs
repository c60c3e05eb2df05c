//! Names of headers that answers often have: kept as one byte, and said again without reading or allocating anything.

use http::HeaderName;

/// In the order of the alphabet; at most 255.
static NAMES: [HeaderName; 113] = [
    HeaderName::from_static("accept-ranges"),
    HeaderName::from_static("access-control-allow-credentials"),
    HeaderName::from_static("access-control-allow-headers"),
    HeaderName::from_static("access-control-allow-methods"),
    HeaderName::from_static("access-control-allow-origin"),
    HeaderName::from_static("access-control-expose-headers"),
    HeaderName::from_static("access-control-max-age"),
    HeaderName::from_static("alert"),
    HeaderName::from_static("allow"),
    HeaderName::from_static("alt-svc"),
    HeaderName::from_static("anki-original-size"),
    HeaderName::from_static("backoff"),
    HeaderName::from_static("cache-control"),
    HeaderName::from_static("cache-status"),
    HeaderName::from_static("cdn-cache-control"),
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-disposition"),
    HeaderName::from_static("content-encoding"),
    HeaderName::from_static("content-language"),
    HeaderName::from_static("content-length"),
    HeaderName::from_static("content-location"),
    HeaderName::from_static("content-range"),
    HeaderName::from_static("content-security-policy"),
    HeaderName::from_static("content-security-policy-report-only"),
    HeaderName::from_static("content-type"),
    HeaderName::from_static("cross-origin-embedder-policy"),
    HeaderName::from_static("cross-origin-opener-policy"),
    HeaderName::from_static("cross-origin-resource-policy"),
    HeaderName::from_static("dav"),
    HeaderName::from_static("deprecation"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("etag"),
    HeaderName::from_static("expires"),
    HeaderName::from_static("feature-policy"),
    HeaderName::from_static("git-protocol"),
    HeaderName::from_static("last-modified"),
    HeaderName::from_static("link"),
    HeaderName::from_static("location"),
    HeaderName::from_static("lock-token"),
    HeaderName::from_static("ms-author-via"),
    HeaderName::from_static("nel"),
    HeaderName::from_static("next-page"),
    HeaderName::from_static("permissions-policy"),
    HeaderName::from_static("pragma"),
    HeaderName::from_static("preference-applied"),
    HeaderName::from_static("priority"),
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-limit"),
    HeaderName::from_static("ratelimit-policy"),
    HeaderName::from_static("ratelimit-remaining"),
    HeaderName::from_static("ratelimit-reset"),
    HeaderName::from_static("referrer-policy"),
    HeaderName::from_static("refresh"),
    HeaderName::from_static("report-to"),
    HeaderName::from_static("reporting-endpoints"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("retry-after"),
    HeaderName::from_static("schedule-tag"),
    HeaderName::from_static("sec-websocket-protocol"),
    HeaderName::from_static("server"),
    HeaderName::from_static("sourcemap"),
    HeaderName::from_static("speculation-rules"),
    HeaderName::from_static("strict-transport-security"),
    HeaderName::from_static("sunset"),
    HeaderName::from_static("surrogate-control"),
    HeaderName::from_static("surrogate-key"),
    HeaderName::from_static("sync-token"),
    HeaderName::from_static("timing-allow-origin"),
    HeaderName::from_static("total-objects"),
    HeaderName::from_static("total-records"),
    HeaderName::from_static("vary"),
    HeaderName::from_static("via"),
    HeaderName::from_static("warning"),
    HeaderName::from_static("www-authenticate"),
    HeaderName::from_static("x-accel-buffering"),
    HeaderName::from_static("x-aspnet-version"),
    HeaderName::from_static("x-backend"),
    HeaderName::from_static("x-backoff"),
    HeaderName::from_static("x-cache"),
    HeaderName::from_static("x-cache-hits"),
    HeaderName::from_static("x-content-duration"),
    HeaderName::from_static("x-content-type-options"),
    HeaderName::from_static("x-correlation-id"),
    HeaderName::from_static("x-couch-request-id"),
    HeaderName::from_static("x-couchdb-body-time"),
    HeaderName::from_static("x-dns-prefetch-control"),
    HeaderName::from_static("x-download-options"),
    HeaderName::from_static("x-envoy-upstream-service-time"),
    HeaderName::from_static("x-frame-options"),
    HeaderName::from_static("x-last-modified"),
    HeaderName::from_static("x-permitted-cross-domain-policies"),
    HeaderName::from_static("x-powered-by"),
    HeaderName::from_static("x-rate-limit-limit"),
    HeaderName::from_static("x-rate-limit-remaining"),
    HeaderName::from_static("x-rate-limit-reset"),
    HeaderName::from_static("x-ratelimit-limit"),
    HeaderName::from_static("x-ratelimit-remaining"),
    HeaderName::from_static("x-ratelimit-reset"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-robots-tag"),
    HeaderName::from_static("x-runtime"),
    HeaderName::from_static("x-served-by"),
    HeaderName::from_static("x-total-count"),
    HeaderName::from_static("x-ua-compatible"),
    HeaderName::from_static("x-version"),
    HeaderName::from_static("x-weave-next-offset"),
    HeaderName::from_static("x-weave-quota-remaining"),
    HeaderName::from_static("x-weave-records"),
    HeaderName::from_static("x-weave-timestamp"),
    HeaderName::from_static("x-weave-total-bytes"),
    HeaderName::from_static("x-weave-total-records"),
    HeaderName::from_static("x-xss-protection"),
];

/// The code of a name that stands in the list.
pub fn code(name: &HeaderName) -> Option<u8> {
    let text = name.as_str();
    NAMES.binary_search_by(|known| known.as_str().cmp(text)).ok().and_then(|index| u8::try_from(index).ok())
}

/// The name of a code.
pub fn name(code: u8) -> Option<HeaderName> {
    NAMES.get(usize::from(code)).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_code() {
        assert!(NAMES.len() < usize::from(u8::MAX) && NAMES.is_sorted_by(|one, other| one.as_str() < other.as_str()));
        for known in &NAMES {
            let code = code(known).expect("a code");
            assert_eq!(name(code).as_ref(), Some(known));
        }
        assert_eq!(code(&HeaderName::from_static("x-nobody-knows")), None);
        assert_eq!(name(u8::MAX), None);
    }
}
