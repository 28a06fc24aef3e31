package auth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// iam logs in with an identity of AWS: Vault forwards a signed request for the caller's identity to STS.
type iam struct {
	mount, role, region, serverID, endpoint string
	// Where the credentials come from: a role that a ServiceAccount assumes, static keys, or else the Pod Identity of
	// leasekeeper itself.
	roleARN string
	account account
	secret  *v1alpha1.SecretReference
	use
}

func newAWS(spec v1alpha1.VaultAuth, u use) (Method, error) {
	a := spec.AWS
	if a == nil {
		return nil, nil
	}
	m := iam{
		mount: or(string(a.Mount), "aws"), role: a.Role, region: or(a.Region, "us-east-1"), serverID: a.ServerID,
		endpoint: a.STSEndpoint, roleARN: a.RoleARN, use: u,
	}
	switch {
	case a.RoleARN != "":
		var err error
		if m.account, err = u.federatedAccountOf("aws", a.ServiceAccountRef, "sts.amazonaws.com"); err != nil {
			return nil, err
		}
	case a.SecretRef != nil:
		m.secret = new(u.secret(*a.SecretRef))
	case u.namespace != "":
		return nil, backend.Errorf(backend.Misconfigured, "%s.aws.podIdentity is the identity of leasekeeper itself, "+
			"which only a ClusterSecretProvider may use: set %[1]s.aws.roleARN or %[1]s.aws.secretRef", u.field)
	}
	return m, nil
}

// String implements Method.
func (a iam) String() string { return fmt.Sprintf("role %q", a.role) }

// ServiceAccount implements Method.
func (a iam) ServiceAccount(who backend.Identity) (string, error) {
	if a.roleARN == "" {
		return "", nil
	}
	return a.account.name(who)
}

// Login implements Method.
func (a iam) Login(ctx context.Context, r Requester, who backend.Identity) (Token, error) {
	token, err := a.withCredentials(ctx, r, who, func(c aws.Credentials, of string) (Token, error) {
		body, err := a.sign(ctx, c)
		if err != nil {
			return Token{}, err
		}
		return r.Login(ctx, Request{
			Path: "auth/" + a.mount + "/login", Role: a.role, Body: body,
			Action: fmt.Sprintf("%s to role %q of auth/%s with %s", a.action(), a.role, a.mount, of),
			Hint: "check the role's bound_iam_principal_arn, and that auth_type is iam; " +
				"the identity needs no permission in AWS",
			Causes: []Cause{
				{"X-Vault-AWS-IAM-Server-ID", fmt.Sprintf("%s.aws.serverID must be iam_server_id_header_value of "+
					"auth/%s/config/client", a.field, a.mount)},
				{"SignatureDoesNotMatch", "the secret access key is wrong: replace it"},
				{"InvalidClientTokenId", "the access key does not exist, or lacks its session token: replace it"},
				{"making upstream request", fmt.Sprintf("Vault cannot use STS: check sts_endpoint and sts_region in "+
					"auth/%s/config/client, which must be for the region %s of %s.aws.region",
					a.mount, a.region, a.field)},
				{"permission denied", "or no auth method is mounted there"},
			},
			Secrets: []string{c.SecretAccessKey, c.SessionToken, body["iam_request_headers"]},
		})
	})
	token.ConfiguredAt = fmt.Sprintf("auth/%s/role/%s", a.mount, a.role)
	return token, err
}

// withCredentials calls login with credentials and a description of whose they are.
func (a iam) withCredentials(
	ctx context.Context, r Requester, who backend.Identity, login func(aws.Credentials, string) (Token, error),
) (Token, error) {
	switch {
	case a.roleARN != "":
		account, err := a.account.of(who)
		if err != nil {
			return Token{}, err
		}
		return r.WithServiceAccountToken(ctx, account, func(jwt string) (Token, error) {
			c, err := a.assumeRole(ctx, r, account, jwt)
			if err != nil {
				return Token{}, err
			}
			return login(c, fmt.Sprintf("%s of ServiceAccount %s/%s", a.roleARN, account.Namespace, account.Name))
		})
	case a.secret != nil:
		return r.WithSecret(ctx, *a.secret, func(s Secret) (Token, error) {
			c, err := a.staticKeys(s)
			if err != nil {
				return Token{}, err
			}
			return login(c, fmt.Sprintf("the keys in Secret %s/%s", s.Namespace, s.Name))
		})
	}
	c, err := a.podIdentity(ctx, r.HTTPClients().Metadata)
	if err != nil {
		return Token{}, err
	}
	return login(c, "leasekeeper's Pod Identity")
}

// assumeRole exchanges a ServiceAccount's token for credentials of the role. STS needs no other proof.
func (a iam) assumeRole(ctx context.Context, r Requester, account ServiceAccount, jwt string) (aws.Credentials, error) {
	client := sts.New(sts.Options{
		Region: a.region, HTTPClient: r.HTTPClients().Exchange, Retryer: aws.NopRetryer{},
		Credentials: aws.AnonymousCredentials{},
	}, func(o *sts.Options) {
		if a.endpoint != "" {
			o.BaseEndpoint = &a.endpoint
		}
	})
	out, err := client.AssumeRoleWithWebIdentity(ctx, &sts.AssumeRoleWithWebIdentityInput{
		RoleArn: &a.roleARN, WebIdentityToken: &jwt, RoleSessionName: aws.String(sessionName(account)),
		DurationSeconds: aws.Int32(900),
	})
	var refused smithy.APIError
	switch {
	case errors.As(err, &refused):
		// The message is dropped: it may quote the token.
		return aws.Credentials{}, backend.Errorf(backend.LoginFailed, "assuming %s as ServiceAccount %s/%s: STS "+
			"refused (%s): check %s.aws.roleARN, and the role's trust policy: its provider must be the cluster's "+
			"issuer, sub system:serviceaccount:%[2]s:%[3]s, and aud %[6]q",
			a.roleARN, account.Namespace, account.Name, codeOf(refused), a.field, account.Audiences)
	case err != nil || out.Credentials == nil:
		return aws.Credentials{}, unreachable("STS", a.field+".aws.stsEndpoint and region", err)
	}
	return aws.Credentials{
		AccessKeyID:     aws.ToString(out.Credentials.AccessKeyId),
		SessionToken:    aws.ToString(out.Credentials.SessionToken),
		SecretAccessKey: aws.ToString(out.Credentials.SecretAccessKey),
	}, nil
}

// unreachable is the error for a service that gives no usable response. The client's own errors, such as that of an
// address that is not allowed, say what to do.
func unreachable(service, fields string, err error) error {
	if ours := (*backend.Error)(nil); errors.As(err, &ours) {
		return backend.Errorf(ours.Kind, "%s: %s", service, ours.Message)
	}
	fault := backend.Errorf(backend.Unavailable, "%s cannot be reached, or its response cannot be used: check %s",
		service, fields)
	fault.Err = err
	return fault
}

var (
	errorCode    = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
	notInSession = regexp.MustCompile(`[^A-Za-z0-9_+=,.@-]`)
)

// codeOf is the code of an error, if it looks like one.
func codeOf(err smithy.APIError) string {
	if code := err.ErrorCode(); errorCode.MatchString(code) {
		return code
	}
	return "without a code"
}

// sessionName names the workload in AWS's logs.
func sessionName(account ServiceAccount) string {
	name := notInSession.ReplaceAllString("leasekeeper-"+account.Namespace+"-"+account.Name, "-")
	return name[:min(len(name), 64)]
}

// staticKeys reads an access key. The session token is optional.
func (a iam) staticKeys(s Secret) (aws.Credentials, error) {
	field := a.field + ".aws.secretRef"
	for _, key := range []string{"access_key_id", "secret_access_key"} {
		if len(s.Data[key]) == 0 {
			return aws.Credentials{}, backend.Errorf(backend.Misconfigured,
				"%s: Secret %q in namespace %q has no value at key %q: add it", field, s.Name, s.Namespace, key)
		}
	}
	text := func(key string) string { return string(bytes.TrimSpace(s.Data[key])) }
	return aws.Credentials{
		AccessKeyID: text("access_key_id"), SecretAccessKey: text("secret_access_key"),
		SessionToken: text("session_token"),
	}, nil
}

// podIdentity requests credentials from the agent on this node, as EKS configures it.
func (a iam) podIdentity(ctx context.Context, client *http.Client) (aws.Credentials, error) {
	endpoint := os.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI")
	token, err := os.ReadFile(os.Getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"))
	if endpoint == "" || err != nil {
		return aws.Credentials{}, backend.Errorf(backend.Misconfigured, "%s.aws.podIdentity: leasekeeper's pod has no "+
			"EKS Pod Identity: create a pod identity association for its ServiceAccount and restart it", a.field)
	}
	c, err := endpointcreds.New(endpoint, func(o *endpointcreds.Options) {
		o.AuthorizationToken, o.HTTPClient = string(bytes.TrimSpace(token)), client
	}).Retrieve(ctx)
	if err != nil {
		return c, unreachable("the EKS Pod Identity agent", "that it runs on leasekeeper's node", err)
	}
	return c, nil
}

const callerIdentity = "Action=GetCallerIdentity&Version=2011-06-15"

// sign makes the body of a login: a signed request that Vault sends to STS.
func (a iam) sign(ctx context.Context, c aws.Credentials) (map[string]string, error) {
	url := fmt.Sprintf("https://sts.%s.amazonaws.com/", a.region)
	if a.endpoint != "" {
		url = a.endpoint
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader([]byte(callerIdentity)))
	if err != nil {
		return nil, backend.Errorf(backend.Misconfigured, "%s.aws.stsEndpoint is not a URL: correct it", a.field)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	if a.serverID != "" {
		request.Header.Set("X-Vault-AWS-IAM-Server-ID", a.serverID)
	}
	sum := sha256.Sum256([]byte(callerIdentity))
	err = v4.NewSigner().SignHTTP(ctx, c, request, hex.EncodeToString(sum[:]), "sts", a.region, time.Now())
	if err != nil {
		return nil, backend.Errorf(backend.Misconfigured, "%s.aws: the credentials cannot sign a request", a.field)
	}
	headers, err := json.Marshal(request.Header)
	if err != nil {
		return nil, err
	}
	encode := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	return map[string]string{
		"role": a.role, "iam_http_request_method": http.MethodPost, "iam_request_url": encode(url),
		"iam_request_body": encode(callerIdentity), "iam_request_headers": encode(string(headers)),
	}, nil
}

// Owns implements Method. Vault records the role of AWS, which objects share, so the ledger's seal must prove it.
func (a iam) Owns(t Description, owner backend.Owner) bool {
	return t.Path == "auth/"+a.mount+"/login" && owner.Proven
}
