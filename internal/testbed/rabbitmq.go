package testbed

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// rabbitDir has RabbitMQ's own scripts. Those in /usr/sbin change the user and the directories.
const rabbitDir = "/usr/lib/rabbitmq/bin"

// RabbitMQ is a server with the management plugin and one administrator.
type RabbitMQ struct {
	*daemon
	// Management is the URL of the management API, which Vault uses.
	Management string

	admin, password string
	// names is the port mapper that Erlang needs. Without one of ours, Erlang would start one that nothing stops.
	names *process
}

// StartRabbitMQ starts a server in a temporary directory and waits until it accepts logins. As root it runs the server
// as user `rabbitmq`.
func StartRabbitMQ(ctx context.Context) (*RabbitMQ, error) {
	server, err := program("rabbitmq-server", "rabbitmq-server", rabbitDir)
	if err != nil {
		return nil, err
	}
	mapper, err := program("epmd", "rabbitmq-server")
	if err != nil {
		return nil, err
	}
	d, err := newDaemon("rabbitmq", "rabbitmq")
	if err != nil {
		return nil, err
	}
	r := &RabbitMQ{daemon: d, admin: "testbed", password: rand.Text()}
	if err := r.start(ctx, server, mapper); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *RabbitMQ) start(ctx context.Context, server, mapper string) error {
	var ports [4]string // port mapper, AMQP, management, distribution
	for i := range ports {
		port, err := FreePort()
		if err != nil {
			return err
		}
		ports[i] = strconv.Itoa(port)
	}
	r.Management = "http://127.0.0.1:" + ports[2]
	config, plugins := filepath.Join(r.home, "rabbitmq.conf"), filepath.Join(r.home, "enabled_plugins")
	err := errors.Join(
		giveFile(plugins, "[rabbitmq_management].\n", r.owner),
		// The password is in a file, because other users can read command lines.
		giveFile(config, strings.Join([]string{
			"listeners.tcp.1 = 127.0.0.1:" + ports[1],
			"management.tcp.ip = 127.0.0.1",
			"management.tcp.port = " + ports[2],
			"default_user = " + r.admin,
			"default_pass = " + r.password,
			"default_user_tags.administrator = true",
			"log.file = false",
			"log.console = true",
			"log.console.level = warning",
			"",
		}, "\n"), r.owner),
	)
	if err != nil {
		return err
	}
	r.names = newProcess(mapper, r.home, "-port", ports[0], "-address", "127.0.0.1")
	r.names.logPath, r.names.credential = filepath.Join(r.dir, "epmd.log"), r.owner
	if err := r.names.start(); err != nil {
		return err
	}
	r.prepare(server)
	r.process.env = append(r.process.env,
		// The script replaces itself by the server. Otherwise the server would outlive the script.
		"RABBITMQ_ALLOW_INPUT=true",
		"ERL_EPMD_PORT="+ports[0],
		"RABBITMQ_NODENAME=testbed-"+ports[1]+"@localhost",
		"RABBITMQ_DIST_PORT="+ports[3],
		"RABBITMQ_BASE="+r.home,
		"RABBITMQ_MNESIA_BASE="+filepath.Join(r.home, "mnesia"),
		"RABBITMQ_LOG_BASE="+r.home,
		"RABBITMQ_PID_FILE="+filepath.Join(r.home, "pid"),
		"RABBITMQ_GENERATED_CONFIG_DIR="+filepath.Join(r.home, "generated"),
		"RABBITMQ_CONF_ENV_FILE="+filepath.Join(r.home, "none"),
		"RABBITMQ_CONFIG_FILE="+config,
		"RABBITMQ_ENABLED_PLUGINS_FILE="+plugins,
		// One processor is enough, and Erlang must not keep it busy while it waits. No input: an Erlang shell would
		// read this process's.
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-noinput +S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none "+
			"-kernel inet_dist_use_interface {127,0,0,1}",
	)
	if err := r.process.start(); err != nil {
		return err
	}
	return r.process.await(ctx, func(ctx context.Context) error { return r.Login(ctx, r.admin, r.password) })
}

// Administrator is who may create users.
func (r *RabbitMQ) Administrator() (name, password string) { return r.admin, r.password }

// Login requests the management API's description of the user.
func (r *RabbitMQ) Login(ctx context.Context, name, password string) error {
	return r.get(ctx, "/api/whoami", name, password, &struct{}{})
}

// Users returns the names of the users whose names contain a text. Vault's contain the name of the token.
func (r *RabbitMQ) Users(ctx context.Context, text string) ([]string, error) {
	var all []struct{ Name string }
	err := r.get(ctx, "/api/users", r.admin, r.password, &all)
	var names []string
	for _, user := range all {
		if strings.Contains(user.Name, text) {
			names = append(names, user.Name)
		}
	}
	return names, err
}

func (r *RabbitMQ) get(ctx context.Context, path, name, password string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.Management+path, nil)
	if err != nil {
		return err
	}
	request.SetBasicAuth(name, password)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("RabbitMQ responded %s to %s", response.Status, path)
	}
	return json.NewDecoder(response.Body).Decode(into)
}

// Close stops the server and removes its files.
func (r *RabbitMQ) Close() error {
	var err error
	if r.process != nil {
		err = r.process.kill() // a graceful stop takes seconds
	}
	if r.names != nil {
		err = errors.Join(err, r.names.kill())
	}
	return errors.Join(err, os.RemoveAll(r.dir))
}
