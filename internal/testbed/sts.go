package testbed

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// STS emulates the two requests of AWS STS that a login to Vault takes, and the agent of EKS Pod Identity. Vault itself
// is real. It checks that a token is for its audience and of a ServiceAccount that the role trusts, and that a caller's
// request is signed (SigV4) with a key that it knows.
type STS struct {
	// URL of the endpoint.
	URL string

	server *httptest.Server
	mu     sync.Mutex
	// trusted are the subjects that may assume a role, by its ARN.
	trusted map[string]string
	// keys by their id.
	keys map[string]stsKey
	// pods are the ARNs of the roles of pods, by the token that the agent knows them by.
	pods map[string]string
}

// stsKey is an access key. Only one of an assumed role has a session.
type stsKey struct{ secret, session, arn string }

// StartSTS starts an STS without roles and keys.
func StartSTS() *STS {
	s := &STS{trusted: map[string]string{}, keys: map[string]stsKey{}, pods: map[string]string{}}
	s.server = httptest.NewServer(s)
	s.URL = s.server.URL
	return s
}

// Close stops the server.
func (s *STS) Close() { s.server.Close() }

// Trust lets a ServiceAccount assume a role.
func (s *STS) Trust(roleARN, namespace, serviceAccount string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trusted[roleARN] = "system:serviceaccount:" + namespace + ":" + serviceAccount
}

// AddKey makes an access key known.
func (s *STS) AddKey(id, secret, arn string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[id] = stsKey{secret: secret, arn: arn}
}

const agentPath = "/v1/credentials"

// AddPod associates a role with a pod. The agent at the URL gives it credentials for the token.
func (s *STS) AddPod(token, roleARN string) (url string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pods[token] = roleARN
	return s.URL + agentPath
}

// ServeHTTP implements http.Handler.
func (s *STS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.URL.Path == agentPath {
		s.serveAgent(w, r)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
	if err != nil {
		refuse(w, http.StatusBadRequest, "MalformedInput")
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	w.Header().Set("Content-Type", "text/xml")
	switch r.FormValue("Action") {
	case "AssumeRoleWithWebIdentity":
		s.assume(w, r)
	case "GetCallerIdentity":
		s.identify(w, r, body)
	default:
		refuse(w, http.StatusBadRequest, "InvalidAction")
	}
}

// session makes a key of a role that was assumed.
func (s *STS) session(roleARN, name string) (id string, key stsKey) {
	id = fmt.Sprintf("ASIA%016d", len(s.keys))
	account, role := strings.Split(roleARN, ":")[4], roleARN[strings.LastIndex(roleARN, "/")+1:]
	key = stsKey{
		secret: rand.Text(), session: rand.Text(),
		arn: fmt.Sprintf("arn:aws:sts::%s:assumed-role/%s/%s", account, role, name),
	}
	s.keys[id] = key
	return id, key
}

func (s *STS) serveAgent(w http.ResponseWriter, r *http.Request) {
	role, ok := s.pods[r.Header.Get("Authorization")]
	if !ok || r.Method != http.MethodGet {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	id, key := s.session(role, "eks-pod")
	_ = json.NewEncoder(w).Encode(map[string]string{
		"AccessKeyId": id, "SecretAccessKey": key.secret, "Token": key.session, "Expiration": "2999-01-01T00:00:00Z",
	})
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, `<ErrorResponse><Error><Type>Sender</Type><Code>%s</Code><Message>no</Message></Error>`+
		`<RequestId>1</RequestId></ErrorResponse>`, code)
}

func (s *STS) assume(w http.ResponseWriter, r *http.Request) {
	role := r.FormValue("RoleArn")
	subject, audiences := claimsOf(r.FormValue("WebIdentityToken"))
	if !strings.Contains(audiences, "sts.amazonaws.com") {
		refuse(w, http.StatusBadRequest, "InvalidIdentityToken")
		return
	}
	if subject == "" || s.trusted[role] != subject {
		refuse(w, http.StatusForbidden, "AccessDenied")
		return
	}
	id, key := s.session(role, r.FormValue("RoleSessionName"))
	fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>`+
		`<AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey>`+
		`<SessionToken>%s</SessionToken><Expiration>2999-01-01T00:00:00Z</Expiration></Credentials>`+
		`</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, id, key.secret, key.session)
}

func (s *STS) identify(w http.ResponseWriter, r *http.Request, body []byte) {
	match := authorization.FindStringSubmatch(r.Header.Get("Authorization"))
	if match == nil {
		refuse(w, http.StatusForbidden, "IncompleteSignature")
		return
	}
	id, region, signed := match[1], match[2], strings.Split(match[3], ";")
	key, known := s.keys[id]
	if !known || r.Header.Get("X-Amz-Security-Token") != key.session {
		refuse(w, http.StatusForbidden, "InvalidClientTokenId")
		return
	}
	credentials := aws.Credentials{AccessKeyID: id, SecretAccessKey: key.secret, SessionToken: key.session}
	if want := signatureOf(r, body, credentials, region, signed); want != r.Header.Get("Authorization") {
		refuse(w, http.StatusForbidden, "SignatureDoesNotMatch")
		return
	}
	fmt.Fprintf(w, `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">`+
		`<GetCallerIdentityResult><Arn>%s</Arn><UserId>AIDATEST</UserId><Account>%s</Account>`+
		`</GetCallerIdentityResult></GetCallerIdentityResponse>`, key.arn, strings.Split(key.arn, ":")[4])
}

var authorization = regexp.MustCompile(`^AWS4-HMAC-SHA256 ` +
	`Credential=([A-Za-z0-9]+)/\d{8}/([a-z0-9-]+)/sts/aws4_request, ` +
	`SignedHeaders=([a-z0-9;-]+), Signature=[0-9a-f]{64}$`)

// signatureOf signs what was received again, with the headers that the caller has signed; empty: it is not current.
func signatureOf(r *http.Request, body []byte, c aws.Credentials, region string, signed []string) string {
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil || time.Since(at).Abs() > 15*time.Minute {
		return ""
	}
	// Vault sends two slashes. AWS normalizes the path before it verifies the signature.
	received := url.URL{Scheme: "http", Host: r.Host, Path: path.Clean(r.URL.Path), RawQuery: r.URL.RawQuery}
	again, err := http.NewRequestWithContext(r.Context(), r.Method, received.String(), bytes.NewReader(body))
	if err != nil {
		return ""
	}
	for _, name := range signed {
		if name != "host" && name != "content-length" {
			again.Header[http.CanonicalHeaderKey(name)] = r.Header.Values(name)
		}
	}
	sum := sha256.Sum256(body)
	if v4.NewSigner().SignHTTP(r.Context(), c, again, hex.EncodeToString(sum[:]), "sts", region, at) != nil {
		return ""
	}
	return again.Header.Get("Authorization")
}

// claimsOf reads the subject and the audiences of a JWT, without verifying it.
func claimsOf(jwt string) (subject, audiences string) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return "", ""
	}
	raw, _ := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Subject   string   `json:"sub"`
		Audiences []string `json:"aud"`
	}
	if json.Unmarshal(raw, &claims) != nil {
		return "", ""
	}
	return claims.Subject, strings.Join(claims.Audiences, " ")
}
