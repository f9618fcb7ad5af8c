// Verifies an access token of the service with jose, by the keys that it publishes: node verify.mjs URL TOKEN.
// Prints the claims.
import { calculateJwkThumbprint, createRemoteJWKSet, decodeProtectedHeader, jwtVerify } from 'jose';

const [url, token] = process.argv.slice(2);
const { payload } = await jwtVerify(token, createRemoteJWKSet(new URL(url)), {
  algorithms: ['EdDSA'],
  audience: 'movies-r-us',
  issuer: 'movies-r-us',
  requiredClaims: ['sub', 'jti', 'sid', 'roles', 'exp', 'nbf', 'iat'],
  typ: 'at+jwt',
});
const { keys } = await (await fetch(url)).json();
const { kid } = decodeProtectedHeader(token);
const key = keys.find((key) => key.kid === kid);
if (await calculateJwkThumbprint(key) !== kid) throw new Error('kid is not the thumbprint');
console.log(JSON.stringify(payload));
