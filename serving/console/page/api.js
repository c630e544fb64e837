// Calls to the service. The key is handed in with each call and kept nowhere here.

/** An answer that isn't 200, or none at all (status 0). */
export class Refused extends Error {
  constructor(status, error, retryAfter) {
    super(error.message);
    Object.assign(this, { status, code: error.code, field: error.field, requestId: error.request_id, retryAfter });
  }
}

export const score = (body, key) => post("/v1/score", body, key);
export const explain = (body, key) => post("/v1/explain", body, key);
export const models = async (key) => (await (await call("/v1/models", {}, key)).json()).data;
export const metrics = async (key) => (await call("/metrics", {}, key)).text();

async function post(path, body, key) {
  const headers = { "Content-Type": "application/json" };
  return (await call(path, { method: "POST", headers, body: JSON.stringify(body) }, key)).json();
}

async function call(path, options, key) {
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch {
    throw new Refused(0, { code: "unreachable", message: "" }, null);
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new Refused(
    answer.status, told.error ?? { code: String(answer.status), message: answer.statusText }, answer.headers.get("Retry-After"),
  );
}
