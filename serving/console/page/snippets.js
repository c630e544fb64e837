// The request in the page as a curl command and as Python. A key never stands in them: they read VERBATIM_KEY.

/** A POSIX shell command; the body is one single-quoted word, so that nothing in it is run. */
export function curl(origin, body, hasKey) {
  const quoted = `'${JSON.stringify(body).replaceAll("'", `'\\''`)}'`;
  const key = hasKey ? `  -H "Authorization: Bearer $VERBATIM_KEY" \\\n` : "";
  return `curl ${origin}/v1/score \\\n${key}  -H 'Content-Type: application/json' \\\n  --data-raw ${quoted}`;
}

/** Python with httpx; JSON of strings and lists is Python too. */
export function python(origin, body, hasKey) {
  const fields = Object.entries(body).map(([name, value]) => `        ${JSON.stringify(name)}: ${JSON.stringify(value)},\n`);
  const key = hasKey ? `    headers={"Authorization": f"Bearer {os.environ['VERBATIM_KEY']}"},\n` : "";
  return `${hasKey ? "import os\n\n" : ""}import httpx

answer = httpx.post(
    "${origin}/v1/score",
${key}    json={
${fields.join("")}    },
)
answer.raise_for_status()
print(answer.json()["results"])`;
}
