"""Request plumbing shared by `api` and `compat`."""

from app.http.audit_trail import AuditTrail, transaction_record
from app.http.authentication import Authenticator, require_leanplum_key, require_scope
from app.http.body import SMALL_BODY_BYTES, BodyReader, Receive, is_small, refuse_declared
from app.http.credentials import key_in_headers
from app.http.decompression import PlaceQueue
from app.http.job_facts import JOB_ID_FIELDS, JobFacts, note_answer
from app.http.json_body import Unpacker, has_rows, without_bom
from app.http.openapi_parts import Tag, body_of, parameters_of, problem_responses
from app.http.problems import PROBLEMS, Answer, Problem, example
from app.http.proxies import VARY_BY_PREFIX, Prefixes, TrustedProxies
from app.http.rate_limiting import RateLimiter
from app.http.request import (
    CONTEXT,
    IDEMPOTENCY_KEY,
    RequestContext,
    context_of,
    idempotency_key,
    log_failure,
    new_request_id,
)
from app.http.response_headers import (
    BROWSER_GUARDS,
    CACHE_HEADER,
    NO_SNIFF,
    NO_STORE,
    PAGE_HEADERS,
    POLICY_HEADER,
    STRICT_POLICY,
    headers_of_file,
)

__all__ = [
    "BROWSER_GUARDS",
    "CACHE_HEADER",
    "CONTEXT",
    "IDEMPOTENCY_KEY",
    "JOB_ID_FIELDS",
    "NO_SNIFF",
    "NO_STORE",
    "PAGE_HEADERS",
    "POLICY_HEADER",
    "PROBLEMS",
    "SMALL_BODY_BYTES",
    "STRICT_POLICY",
    "VARY_BY_PREFIX",
    "Answer",
    "AuditTrail",
    "Authenticator",
    "BodyReader",
    "JobFacts",
    "PlaceQueue",
    "Prefixes",
    "Problem",
    "RateLimiter",
    "Receive",
    "RequestContext",
    "Tag",
    "TrustedProxies",
    "Unpacker",
    "body_of",
    "context_of",
    "example",
    "has_rows",
    "headers_of_file",
    "idempotency_key",
    "is_small",
    "key_in_headers",
    "log_failure",
    "new_request_id",
    "note_answer",
    "parameters_of",
    "problem_responses",
    "refuse_declared",
    "require_leanplum_key",
    "require_scope",
    "transaction_record",
    "without_bom",
]
