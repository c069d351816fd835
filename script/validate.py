"""What bin/validate runs: validates examples/ and the workflows against the platforms' own models.

Each model also gets a spoiled copy and has to refuse it: a model that accepts everything would prove nothing.
"""

import copy
import json
import pathlib
import subprocess
import sys
import tempfile

import botocore.session
import kubernetes_validate
import yaml
from botocore.validate import ParamValidator
from cfnlint import ManualArgs
from cfnlint.api import lint

ROOT = pathlib.Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def read(name):
    return yaml.safe_load((EXAMPLES / name).read_text())


def kubernetes(document):
    try:
        kubernetes_validate.validate(document, "1.33", strict=True)
    except kubernetes_validate.ValidationError as error:
        return str(error)


def wrong_words(value, shape, where=""):
    """botocore itself does not compare with the words that a field may have."""
    if shape.type_name == "structure":
        for name, inner in value.items():
            yield from wrong_words(inner, shape.members[name], f"{where}.{name}")
    elif shape.type_name == "list":
        for inner in value:
            yield from wrong_words(inner, shape.member, f"{where}[]")
    elif getattr(shape, "enum", None) and value not in shape.enum:
        yield f"{where} is {value!r}, and may be one of {', '.join(shape.enum)}"


def botocore_takes(service, operation):
    shape = botocore.session.get_session().get_service_model(service).operation_model(operation).input_shape

    def refuse(document):
        report = ParamValidator().validate(document, shape)
        return report.generate_report() if report.has_errors() else "\n".join(wrong_words(document, shape))

    return refuse


def cloudformation(kind, properties):
    """The same as a resource of CloudFormation's, whose schemas know more than botocore's."""
    template = {"Resources": {"Example": {"Type": kind, "Properties": properties}}}
    found = lint(json.dumps(template), config=ManualArgs(regions=["eu-west-1"]))
    return "\n".join(str(match) for match in found)


FREE_KEYS = {"Options"}


def capitals(value, free=False):
    """CloudFormation writes ECS's fields with a capital; the options of a log driver are not ECS's."""
    if isinstance(value, list):
        return [capitals(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    named = {key if free else key[0].upper() + key[1:]: inner for key, inner in value.items()}
    return {key: capitals(inner, key in FREE_KEYS) for key, inner in named.items()}


def ecs_resource(document):
    # What a person has to fill in, filled in.
    text = json.dumps(document).replace("ACCOUNT", "123456789012").replace("REGION", "eu-west-1")
    return cloudformation("AWS::ECS::TaskDefinition", capitals(json.loads(text)))


def ssm_resource(document):
    return cloudformation("AWS::SSM::Document", {"DocumentType": "Command", "DocumentFormat": "YAML", "Content": document})


def create_document(name):
    return {"Name": "quiet", "DocumentType": "Command", "DocumentFormat": "YAML", "Content": (EXAMPLES / name).read_text()}


def iam_resource(document):
    text = json.dumps(document).replace("ACCOUNT", "123456789012").replace("REGION", "eu-west-1")
    properties = {"PolicyName": "task-protection", "Roles": ["role"], "PolicyDocument": json.loads(text)}
    return cloudformation("AWS::IAM::Policy", properties)


def workflow(name):
    document = yaml.safe_load((ROOT / name).read_text())
    # YAML 1.1 reads the key `on` as true.
    return {("on" if key is True else key): value for key, value in document.items()}


def github(document):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(document, file)
        file.flush()
        command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", file.name]
        checked = subprocess.run(command, capture_output=True, text=True)
    return checked.stdout + checked.stderr if checked.returncode else ""


def spoil(document, *path, to):
    spoiled = copy.deepcopy(document)
    place = spoiled
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return spoiled


DEPLOYMENT = "kubernetes/deploy/kubernetes/sidekiq.yaml"
OVER_HTTP = "kubernetes-http/deploy/kubernetes/sidekiq.yaml"
TASK = "ecs/deploy/ecs/task-definition.yaml"
SERVICE = "ecs/deploy/ecs/service.yaml"
POLICY = "ecs/deploy/ecs/task-protection-policy.json"
DOCUMENT = "ssm/deploy/ssm/quiet-sidekiq.yaml"
CI = ".github/workflows/ci.yml"
RELEASE = ".github/workflows/release.yml"

# (file, model, how it refuses, the document, what spoils it)
LOOKS = [
    (DEPLOYMENT, "Kubernetes' schema", kubernetes, read(DEPLOYMENT),
     {"path": ["spec", "template", "spec", "terminationGracePeriodSeconds"], "to": "soon"}),
    (OVER_HTTP, "Kubernetes' schema", kubernetes, read(OVER_HTTP),
     {"path": ["spec", "template", "spec", "containers", 0, "livenessProbe", "httpGet", "port"], "to": None}),
    (TASK, "botocore", botocore_takes("ecs", "RegisterTaskDefinition"), read(TASK),
     {"path": ["containerDefinitions", 0, "stopTimeout"], "to": "30s"}),
    (TASK, "cfn-lint", ecs_resource, read(TASK), {"path": ["cpu"], "to": "300"}),
    (SERVICE, "botocore", botocore_takes("ecs", "CreateService"), read(SERVICE), {"path": ["launchType"], "to": "SERVERS"}),
    (POLICY, "cfn-lint", iam_resource, read(POLICY), {"path": ["Statement", 0, "Effect"], "to": "Perhaps"}),
    (DOCUMENT, "botocore", botocore_takes("ssm", "CreateDocument"), create_document(DOCUMENT),
     {"path": ["DocumentType"], "to": "Order"}),
    (DOCUMENT, "cfn-lint", ssm_resource, read(DOCUMENT), {"path": ["schemaVersion"], "to": "9"}),
    (CI, "GitHub's schema", github, workflow(CI), {"path": ["jobs", "test", "steps", 0, "uses"], "to": 4}),
    (RELEASE, "GitHub's schema", github, workflow(RELEASE), {"path": ["jobs", "draft", "needs"], "to": 4}),
]

failed = False
for name, model, refuse, document, harm in LOOKS:
    reason = refuse(document)
    blind = not refuse(spoil(document, *harm["path"], to=harm["to"]))
    failed = failed or bool(reason) or blind
    print(f"{name}: {reason or (f'{model} accepts a spoiled copy' if blind else f'{model} accepts it')}")
sys.exit(failed)
