// An OpenID Connect provider: oidc-provider, with accounts that take any password. Prints its issuer.
// node provider.mjs ALGORITHM
import { createServer } from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import Provider from 'oidc-provider';

const TYPES = {
  RS256: ['rsa', { modulusLength: 2048 }],
  PS256: ['rsa', { modulusLength: 2048 }],
  ES256: ['ec', { namedCurve: 'P-256' }],
  EdDSA: ['ed25519'],
};
const [alg] = process.argv.slice(2);
const { privateKey } = generateKeyPairSync(...TYPES[alg]);
const key = { ...privateKey.export({ format: 'jwk' }), alg, kid: 'first', use: 'sig' };
const ROLES = { ada: ['editor', 'offline_access', 'uma_authorization'], bob: ['viewer'] };

const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [{
      client_id: 'movies-app',
      application_type: 'native',
      grant_types: ['authorization_code'],
      redirect_uris: ['http://127.0.0.1/callback'],
      response_types: ['code'],
      id_token_signed_response_alg: alg,
      token_endpoint_auth_method: 'none',
    }],
    jwks: { keys: [key] },
    cookies: { keys: ['a key for tests'] },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    // As Keycloak puts the roles of a realm.
    extraTokenClaims: (_, token) => ({
      preferred_username: token.accountId,
      realm_access: { roles: ROLES[token.accountId] ?? [] },
    }),
    enabledJWA: { idTokenSigningAlgValues: [alg] },
    features: {
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_, resource) => ({
          audience: resource,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg } },
          scope: 'movies',
        }),
      },
    },
  });
  server.on('request', provider.callback());
  console.log(issuer);
});
