package auth

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// exchange is one request to a service of a cloud that exchanges or issues tokens.
type exchange struct {
	// service and fields are for messages: who responds, and what of the spec it depends on.
	service, fields string
	url             string
	header          http.Header
	// form or json is the body; neither: a GET.
	form url.Values
	json any
}

// send returns the response. Its body is in no message: it may have a token in it.
func (e exchange) send(ctx context.Context, client *http.Client) ([]byte, error) {
	method, kind, body := http.MethodGet, "", io.Reader(nil)
	switch {
	case e.form != nil:
		method, kind, body = http.MethodPost, "application/x-www-form-urlencoded", strings.NewReader(e.form.Encode())
	case e.json != nil:
		raw, err := json.Marshal(e.json)
		if err != nil {
			return nil, err
		}
		method, kind, body = http.MethodPost, "application/json", strings.NewReader(string(raw))
	}
	request, err := http.NewRequestWithContext(ctx, method, e.url, body)
	if err != nil {
		return nil, backend.Errorf(backend.Misconfigured, "no request can be made to %s: correct %s",
			e.service, e.fields)
	}
	for name, values := range e.header {
		request.Header[name] = values
	}
	if kind != "" {
		request.Header.Set("Content-Type", kind)
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, unreachable(e.service, e.fields, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	switch {
	case err != nil, response.StatusCode >= 500, response.StatusCode == http.StatusTooManyRequests:
		return nil, unreachable(e.service, e.fields, err)
	case response.StatusCode != http.StatusOK:
		return nil, backend.Errorf(backend.LoginFailed, "%s refused (%d%s): check %s",
			e.service, response.StatusCode, refusalCode(text), e.fields)
	}
	return text, nil
}

// refusalCode is the code of an OAuth error, such as ", invalid_grant"; empty: there is none.
func refusalCode(body []byte) string {
	var refusal struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(body, &refusal) != nil || !errorCode.MatchString(refusal.Error) {
		return ""
	}
	return ", " + refusal.Error
}

// field sends the request and returns a field of its JSON response.
func (e exchange) field(ctx context.Context, client *http.Client, name string) (string, error) {
	body, err := e.send(ctx, client)
	if err != nil {
		return "", err
	}
	var fields map[string]any
	if json.Unmarshal(body, &fields) != nil {
		fields = nil
	}
	value, _ := fields[name].(string)
	if value == "" {
		return "", unreachable(e.service, e.fields, fmt.Errorf("no %s in the response", name))
	}
	return value, nil
}

// ownIdentity is the error for a tenant who wants to log in as leasekeeper itself.
func (u use) ownIdentity(method, instead string) error {
	return backend.Errorf(backend.Misconfigured, "%[1]s.%[2]s.metadataServer is the identity of leasekeeper itself, "+
		"which only a ClusterSecretProvider may use: set %[1]s.%[2]s.%[3]s", u.field, method, instead)
}
