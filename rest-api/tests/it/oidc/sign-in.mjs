// Signs a user in by the authorization code flow with PKCE, as a page does: node sign-in.mjs ISSUER USER RESOURCE.
// Prints the access token.
import { createHash, randomBytes } from 'node:crypto';

const [issuer, user, resource] = process.argv.slice(2);
const redirect = 'http://127.0.0.1/callback';
const metadata = await (await fetch(`${issuer}/.well-known/openid-configuration`)).json();
const verifier = randomBytes(32).toString('base64url');
const cookies = new Map();

// Requests a page with the cookies so far, and follows redirects up to the page of the client.
async function request(url, body) {
  for (;;) {
    const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join('; ');
    const method = body ? 'POST' : 'GET';
    const response = await fetch(url, { method, body, headers: { cookie }, redirect: 'manual' });
    for (const set of response.headers.getSetCookie()) {
      const [name, value] = set.split(';')[0].split('=');
      cookies.set(name, value);
    }
    const location = response.headers.get('location');
    if (!location) return { url, text: await response.text() };
    url = new URL(location, url).href;
    body = undefined;
    if (url.startsWith(redirect)) return { url, text: '' };
  }
}

const challenge = createHash('sha256').update(verifier).digest('base64url');
let page = await request(`${metadata.authorization_endpoint}?${new URLSearchParams({
  client_id: 'movies-app',
  response_type: 'code',
  redirect_uri: redirect,
  scope: 'openid movies',
  resource,
  code_challenge: challenge,
  code_challenge_method: 'S256',
})}`);
for (const form of [{ prompt: 'login', login: user, password: 'any' }, { prompt: 'consent' }]) {
  if (!page.text.includes(`value="${form.prompt}"`)) throw new Error(page.text || page.url);
  page = await request(page.url, new URLSearchParams(form));
}
const code = new URL(page.url).searchParams.get('code');
const answer = await fetch(metadata.token_endpoint, {
  method: 'POST',
  body: new URLSearchParams({
    grant_type: 'authorization_code',
    client_id: 'movies-app',
    redirect_uri: redirect,
    code,
    code_verifier: verifier,
    resource,
  }),
});
const tokens = await answer.json();
if (!tokens.access_token) throw new Error(JSON.stringify(tokens));
console.log(tokens.access_token);
