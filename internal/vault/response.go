package vault

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// response is the shape of every response of Vault and OpenBao, errors included.
type response struct {
	RequestID     string          `json:"request_id"`
	LeaseID       string          `json:"lease_id"`
	LeaseDuration json.Number     `json:"lease_duration"`
	Renewable     bool            `json:"renewable"`
	Data          json.RawMessage `json:"data"`
	Warnings      []string        `json:"warnings"`
	Auth          *authBlock      `json:"auth"`
	WrapInfo      json.RawMessage `json:"wrap_info"`
	// Errors is nil if the response has no such key, and empty for a plain 404.
	Errors *[]string `json:"errors"`

	// token of the request.
	token string
}

// authBlock describes a token.
type authBlock struct {
	ClientToken   string      `json:"client_token"`
	Accessor      string      `json:"accessor"`
	LeaseDuration json.Number `json:"lease_duration"`
	Renewable     bool        `json:"renewable"`
	NumUses       json.Number `json:"num_uses"`
}

// decoded is the body of a response, and whether Vault can have sent it.
type decoded struct {
	response
	ok bool
}

// parse decodes a response, once. ok is false if Vault cannot have sent it: no JSON, or JSON of another shape.
func (r rawResponse) parse() (a response, ok bool) {
	if r.decoded != nil {
		return r.decoded.response, r.decoded.ok
	}
	if len(r.body) == 0 || json.Unmarshal(r.body, &a) != nil {
		return response{}, false
	}
	a.token = r.token
	if a.Errors != nil {
		// Go accepts "erRors" as the key too. An error text can mean that a lease is gone, so the key must be Vault's.
		a.Errors = nil
		if raw, has := object(r.body)["errors"]; has && json.Unmarshal(raw, &a.Errors) != nil {
			return response{}, false
		}
	}
	fromVault := a.RequestID != "" || a.Errors != nil || len(a.Warnings) > 0
	return a, fromVault || a.Auth != nil || !isNull(a.Data)
}

func isNull(raw json.RawMessage) bool {
	trimmed := bytes.TrimSpace(raw)
	return len(trimmed) == 0 || bytes.Equal(trimmed, []byte("null"))
}

// object reads a JSON object; nil for anything else.
func object(raw json.RawMessage) map[string]json.RawMessage {
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil {
		return nil
	}
	return fields
}

// errorTexts are the error texts, without the decoration that Vault adds when it joins several.
func (a response) errorTexts() []string {
	if a.Errors == nil {
		return nil
	}
	var texts []string
	for _, text := range *a.Errors {
		texts = append(texts, undecorated(text)...)
	}
	return texts
}

var joined = regexp.MustCompile(`^\d+ errors? occurred:`)

// undecorated splits "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n".
func undecorated(text string) []string {
	text = strings.TrimSpace(text)
	head := joined.FindString(text)
	if head == "" {
		return []string{text}
	}
	var texts []string
	for _, item := range strings.Split(text[len(head):], "\n\t* ") {
		if item = strings.TrimSpace(item); item != "" {
			texts = append(texts, strings.TrimPrefix(item, "* "))
		}
	}
	return texts
}

// errorText is what the server reported, safe to show: without the token and the other secrets of the request.
func (a response) errorText(secrets ...string) string {
	texts := a.errorTexts()
	if len(texts) == 0 {
		texts = a.Warnings
	}
	if len(texts) == 0 {
		return "no details"
	}
	return scrub(strings.Join(texts, "; "), append(secrets, a.token)...)
}

var quoted = regexp.MustCompile(`"[^"]*"`)

// unquoted is the response without the names that its error texts quote, such as that of a role. A name may contain
// anything.
func (a response) unquoted() response {
	texts := make([]string, 0, len(a.errorTexts()))
	for _, text := range a.errorTexts() {
		texts = append(texts, quoted.ReplaceAllString(text, ""))
	}
	a.Errors = &texts
	return a
}

// maxSeconds keeps a duration within the range of time.Duration.
const maxSeconds = 100 * 365 * 24 * 3600

// seconds reads a number of seconds; 0 if it is missing, negative or not a number.
func seconds(n json.Number) time.Duration {
	var s float64
	if _, err := fmt.Sscan(string(n), &s); err != nil || !(s > 0) {
		return 0
	}
	return time.Duration(min(s, maxSeconds)) * time.Second
}

// wholeSeconds rounds up: to request less than the caller wants could shorten a lease.
func wholeSeconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }
