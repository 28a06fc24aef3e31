package testbed

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
)

// STS emulates the two requests of AWS STS that a login to Vault takes. Vault itself is real. It checks that a token is
// for its audience and of a ServiceAccount that the role trusts, and that the caller has credentials which it issued.
// It does not verify signatures.
type STS struct {
	// URL of the endpoint.
	URL string

	server *httptest.Server
	mu     sync.Mutex
	// trusted are the subjects that may assume a role, by its ARN.
	trusted map[string]string
	// arns of the callers by access key.
	arns map[string]string
}

// StartSTS starts an STS without roles and keys.
func StartSTS() *STS {
	s := &STS{trusted: map[string]string{}, arns: map[string]string{}}
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
func (s *STS) AddKey(accessKeyID, arn string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arns[accessKeyID] = arn
}

var accessKeyOf = regexp.MustCompile(`Credential=([A-Za-z0-9]+)/\d{8}/[a-z0-9-]+/sts/aws4_request`)

// ServeHTTP implements http.Handler.
func (s *STS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "text/xml")
	switch r.FormValue("Action") {
	case "AssumeRoleWithWebIdentity":
		s.assume(w, r)
	case "GetCallerIdentity":
		s.identify(w, r)
	default:
		refuse(w, http.StatusBadRequest, "InvalidAction")
	}
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
	key := fmt.Sprintf("ASIA%016d", len(s.arns))
	account, name := strings.Split(role, ":")[4], role[strings.LastIndex(role, "/")+1:]
	s.arns[key] = fmt.Sprintf("arn:aws:sts::%s:assumed-role/%s/%s", account, name, r.FormValue("RoleSessionName"))
	fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>`+
		`<AccessKeyId>%s</AccessKeyId><SecretAccessKey>secret-of-%[1]s</SecretAccessKey>`+
		`<SessionToken>session-of-%[1]s</SessionToken><Expiration>2999-01-01T00:00:00Z</Expiration></Credentials>`+
		`</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, key)
}

func (s *STS) identify(w http.ResponseWriter, r *http.Request) {
	match := accessKeyOf.FindStringSubmatch(r.Header.Get("Authorization"))
	if match == nil || s.arns[match[1]] == "" {
		refuse(w, http.StatusForbidden, "InvalidClientTokenId")
		return
	}
	temporary := strings.HasPrefix(match[1], "ASIA")
	if temporary && r.Header.Get("X-Amz-Security-Token") != "session-of-"+match[1] {
		refuse(w, http.StatusForbidden, "InvalidClientTokenId")
		return
	}
	arn := s.arns[match[1]]
	fmt.Fprintf(w, `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">`+
		`<GetCallerIdentityResult><Arn>%s</Arn><UserId>AIDATEST</UserId><Account>%s</Account>`+
		`</GetCallerIdentityResult></GetCallerIdentityResponse>`, arn, strings.Split(arn, ":")[4])
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
