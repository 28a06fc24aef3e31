package main

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/vault/api"
)

// bareStep measures the least that any operator must do for each object: log in to Vault with a ServiceAccount token
// and request a credential. It writes nothing to Kubernetes; Vault reviews each login at the API server.
func (s *site) bareStep(ctx context.Context, r *result) error {
	jwt, err := s.plane.Token(ctx, namespace, namespace, "vault")
	if err != nil {
		return err
	}
	// One client per worker keeps its connection, as the manager's clients do.
	clients := make(chan *api.Client, s.opts.concurrency)
	for range s.opts.concurrency {
		client, err := s.vault.Client("")
		if err != nil {
			return err
		}
		clients <- client
	}
	tokens := make([]string, r.Objects)
	before, start := cpuSeconds(s.plane.APIServerPID()), time.Now()
	err = parallel(ctx, s.opts.concurrency, r.Objects, func(ctx context.Context, i int) (err error) {
		client := <-clients
		defer func() { clients <- client }()
		tokens[i], err = bareIssue(ctx, client, jwt)
		return err
	})
	if err != nil {
		return err
	}
	r.BareLoopSeconds = time.Since(start).Seconds()
	r.BareAPIServerCPUMillis = (cpuSeconds(s.plane.APIServerPID()) - before) * 1000 / float64(r.Objects)
	progress("%d logins and credentials in %.1f s; revoking them", r.Objects, r.BareLoopSeconds)
	return parallel(ctx, s.opts.concurrency, r.Objects, func(ctx context.Context, i int) error {
		client := <-clients
		defer func() { clients <- client }()
		client.SetToken(tokens[i])
		return client.Auth().Token().RevokeSelfWithContext(ctx, "")
	})
}

// bareIssue logs in, requests a credential with that token, and returns the token.
func bareIssue(ctx context.Context, client *api.Client, jwt string) (string, error) {
	client.SetToken("")
	login := map[string]any{"role": namespace, "jwt": jwt}
	response, err := client.Logical().WriteWithContext(ctx, "auth/"+bareAuth+"/login", login)
	if err != nil {
		return "", err
	}
	token := response.Auth.ClientToken
	client.SetToken(token)
	credential, err := client.Logical().WriteWithContext(ctx, bareEngine+credentials, map[string]any{"ip": "127.0.0.1"})
	if err != nil {
		return "", err
	}
	if credential.LeaseID == "" {
		return "", fmt.Errorf("%s gave a credential without a lease", bareEngine+credentials)
	}
	return token, nil
}
