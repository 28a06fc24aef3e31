package testbed

import (
	"crypto/rand"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// AWS emulates those requests of IAM and STS that Vault's aws engine sends. It does not verify signatures, but the
// access key must be known. See docs/decisions/0047-aws-emulator.md.
type AWS struct {
	// Address is the endpoint of both services.
	Address string
	// AccessKey and SecretKey are those of the administrator.
	AccessKey, SecretKey string

	server *httptest.Server
	mu     sync.Mutex
	users  map[string]*awsUser
	// sessions are when temporary credentials expire, by access key.
	sessions map[string]time.Time
}

type awsUser struct {
	keys, attached []string
	inline         map[string]string
}

// StartAWS starts an emulator without users.
func StartAWS() *AWS {
	a := &AWS{AccessKey: awsKey("AKIA"), SecretKey: rand.Text(), users: map[string]*awsUser{},
		sessions: map[string]time.Time{}}
	a.server = httptest.NewServer(a)
	a.Address = a.server.URL
	return a
}

// Close stops the emulator.
func (a *AWS) Close() error {
	a.server.Close()
	return nil
}

// Users returns the names of the IAM users with a prefix.
func (a *AWS) Users(prefix string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var names []string
	for name := range a.users {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Valid reports whether an access key belongs to a user or to a session that has not expired.
func (a *AWS) Valid(accessKey string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, user := range a.users {
		if slices.Contains(user.keys, accessKey) {
			return true
		}
	}
	return time.Now().Before(a.sessions[accessKey])
}

func awsKey(prefix string) string { return prefix + rand.Text()[:16] }

// awsCredential finds the access key in a signature of version 4.
var awsCredential = regexp.MustCompile(`Credential=([A-Z0-9]+)/`)

// awsAction handles a request. It returns the content of the result, as XML, or an error code.
type awsAction func(a *AWS, form url.Values) (result any, code string)

// ServeHTTP implements http.Handler with the Query protocol of AWS.
func (a *AWS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	name, status := r.PostForm.Get("Action"), http.StatusOK
	a.mu.Lock()
	defer a.mu.Unlock()
	var body any
	found := awsCredential.FindStringSubmatch(r.Header.Get("Authorization"))
	action := awsActions[name]
	code := ""
	switch {
	case found == nil || found[1] != a.AccessKey:
		code, status = "InvalidClientTokenId", http.StatusForbidden
	case action == nil:
		code, status = "InvalidAction", http.StatusBadRequest
	default:
		if body, code = action(a, r.PostForm); code != "" {
			status = http.StatusNotFound
		}
	}
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(status)
	if code != "" {
		_, _ = fmt.Fprintf(w, "<ErrorResponse><Error><Type>Sender</Type><Code>%s</Code><Message>%s of %s</Message>"+
			"</Error><RequestId>1</RequestId></ErrorResponse>", code, code, name)
		return
	}
	_, _ = fmt.Fprintf(w, "<%sResponse>", name)
	_ = xml.NewEncoder(w).EncodeElement(body, xml.StartElement{Name: xml.Name{Local: name + "Result"}})
	_, _ = fmt.Fprintf(w, "<ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></%sResponse>", name)
}

var awsActions = map[string]awsAction{
	"CreateUser": func(a *AWS, form url.Values) (any, string) {
		name := form.Get("UserName")
		if a.users[name] != nil {
			return nil, "EntityAlreadyExists"
		}
		a.users[name] = &awsUser{inline: map[string]string{}}
		return struct {
			User struct{ UserName, Arn string }
		}{struct{ UserName, Arn string }{name, "arn:aws:iam::123456789012:user/" + name}}, ""
	},
	"TagUser": onUser(func(*AWS, *awsUser, url.Values) (any, string) { return struct{}{}, "" }),
	"AttachUserPolicy": onUser(func(_ *AWS, u *awsUser, form url.Values) (any, string) {
		u.attached = append(u.attached, form.Get("PolicyArn"))
		return struct{}{}, ""
	}),
	"DetachUserPolicy": onUser(func(_ *AWS, u *awsUser, form url.Values) (any, string) {
		return removed(&u.attached, form.Get("PolicyArn"))
	}),
	"PutUserPolicy": onUser(func(_ *AWS, u *awsUser, form url.Values) (any, string) {
		u.inline[form.Get("PolicyName")] = form.Get("PolicyDocument")
		return struct{}{}, ""
	}),
	"DeleteUserPolicy": onUser(func(_ *AWS, u *awsUser, form url.Values) (any, string) {
		delete(u.inline, form.Get("PolicyName"))
		return struct{}{}, ""
	}),
	"CreateAccessKey": onUser(func(_ *AWS, u *awsUser, form url.Values) (any, string) {
		type key struct{ UserName, AccessKeyId, Status, SecretAccessKey string }
		made := key{form.Get("UserName"), awsKey("AKIA"), "Active", rand.Text()}
		u.keys = append(u.keys, made.AccessKeyId)
		return struct{ AccessKey key }{made}, ""
	}),
	"DeleteAccessKey": onUser(func(_ *AWS, u *awsUser, form url.Values) (any, string) {
		return removed(&u.keys, form.Get("AccessKeyId"))
	}),
	"ListGroupsForUser": onUser(func(*AWS, *awsUser, url.Values) (any, string) {
		return struct {
			Groups      struct{}
			IsTruncated bool
		}{}, ""
	}),
	"ListUserPolicies": onUser(func(_ *AWS, u *awsUser, _ url.Values) (any, string) {
		var list struct {
			PolicyNames struct {
				Member []string `xml:"member"`
			}
			IsTruncated bool
		}
		for name := range u.inline {
			list.PolicyNames.Member = append(list.PolicyNames.Member, name)
		}
		return list, ""
	}),
	"ListAttachedUserPolicies": onUser(func(_ *AWS, u *awsUser, _ url.Values) (any, string) {
		type policy struct{ PolicyArn string }
		var list struct {
			AttachedPolicies struct {
				Member []policy `xml:"member"`
			}
			IsTruncated bool
		}
		for _, arn := range u.attached {
			list.AttachedPolicies.Member = append(list.AttachedPolicies.Member, policy{arn})
		}
		return list, ""
	}),
	"ListAccessKeys": onUser(func(_ *AWS, u *awsUser, form url.Values) (any, string) {
		type key struct{ UserName, AccessKeyId string }
		var list struct {
			AccessKeyMetadata struct {
				Member []key `xml:"member"`
			}
			IsTruncated bool
		}
		for _, id := range u.keys {
			list.AccessKeyMetadata.Member = append(list.AccessKeyMetadata.Member, key{form.Get("UserName"), id})
		}
		return list, ""
	}),
	"DeleteUser": func(a *AWS, form url.Values) (any, string) {
		user := a.users[form.Get("UserName")]
		switch {
		case user == nil:
			return nil, "NoSuchEntity"
		case len(user.keys)+len(user.attached)+len(user.inline) > 0:
			return nil, "DeleteConflict" // as the real IAM
		}
		delete(a.users, form.Get("UserName"))
		return struct{}{}, ""
	},
	"AssumeRole":         temporary,
	"GetFederationToken": temporary,
	"GetSessionToken":    temporary,
	"GetCallerIdentity": func(*AWS, url.Values) (any, string) {
		return struct{ Arn, UserId, Account string }{
			"arn:aws:iam::123456789012:user/testbed", "AIDATESTBED", "123456789012",
		}, ""
	},
}

// onUser is an action on an existing user.
func onUser(do func(*AWS, *awsUser, url.Values) (any, string)) awsAction {
	return func(a *AWS, form url.Values) (any, string) {
		if user := a.users[form.Get("UserName")]; user != nil {
			return do(a, user, form)
		}
		return nil, "NoSuchEntity"
	}
}

func removed(from *[]string, item string) (any, string) {
	i := slices.Index(*from, item)
	if i < 0 {
		return nil, "NoSuchEntity"
	}
	*from = slices.Delete(*from, i, i+1)
	return struct{}{}, ""
}

// temporary issues the credentials of a session.
func temporary(a *AWS, form url.Values) (any, string) {
	type credentials struct{ AccessKeyId, SecretAccessKey, SessionToken, Expiration string }
	life, err := time.ParseDuration(form.Get("DurationSeconds") + "s")
	if err != nil {
		life = time.Hour
	}
	key := awsKey("ASIA")
	a.sessions[key] = time.Now().Add(life)
	return struct {
		Credentials     credentials
		AssumedRoleUser struct{ Arn, AssumedRoleId string }
	}{
		credentials{key, rand.Text(), rand.Text(), a.sessions[key].UTC().Format(time.RFC3339)},
		struct{ Arn, AssumedRoleId string }{"arn:aws:sts::123456789012:assumed-role/testbed/session", "AROATESTBED"},
	}, ""
}
